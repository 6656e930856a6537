// An exported repository, as the server serves it (https://ipld.io/specs/transport/car/carv1/): a file of blocks.
//
// Blocks come in any order, so a table finds them. repository.cjs owns what they form together.
"use strict";

const fs = require("node:fs");
const { Cid, decode } = require("./blocks.cjs");

const HEAD = 512; // bytes; the length and the CID of a block, and most whole blocks
const WINDOW = 1024 * 1024; // bytes of the file that are in memory at once, unless a block is larger

/**
 * An exported repository in the file `name`: its root, and its blocks, which are not in memory. Call `close`
 * afterwards.
 */
function openCar(name) {
  const blocks = new Car(name);
  return { root: blocks.root, blocks, close: () => blocks.close() };
}

class Car {
  constructor(name) {
    this.handle = fs.openSync(name);
    try {
      this.size = fs.fstatSync(this.handle).size;
      const [count, start] = number(this.read(0, HEAD), 0);
      this.first = start + count;
      this.root = String(decode(this.read(start, count, true)).roots[0]);
      let blocks = 0;
      for (const _ of this.sections()) blocks++; // so that the table has its final size
      this.places = new Places(blocks, this.size);
      for (const { at, cid } of this.sections()) this.places.add(cid.bytes, at);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  close() {
    fs.closeSync(this.handle);
  }

  /** Bytes at an offset; fewer at the end of the file, unless `all` are required. */
  read(at, count, all = false, buffer = null) {
    const there = Math.min(count, this.size - at);
    if (all && there < count) throw new Error("it ends too early");
    const into = buffer && there <= buffer.length ? buffer : Buffer.allocUnsafe(there);
    const got = fs.readSync(this.handle, into, 0, there, at);
    if (got !== there) throw new Error("it ends too early");
    return into.subarray(0, there);
  }

  section(at, read) {
    const [length, start] = number(read(at, HEAD), 0);
    const end = start + length;
    if (at + end > this.size) throw new Error("it ends too early");
    const bytes = read(at, end);
    const from = endOfCid(bytes, start);
    if (from > end) throw new Error("it has a CID that is longer than its block");
    return { at, cid: new Cid(bytes.subarray(start, from)), content: bytes.subarray(from, end), next: at + end };
  }

  /** Every block, in one pass. Each value is valid until the next one. */
  *sections() {
    const buffer = Buffer.allocUnsafe(WINDOW);
    let [window, start] = [Buffer.alloc(0), 0];
    const read = (at, count) => {
      if (at + count > start + window.length) {
        window = this.read(at, Math.max(count, WINDOW), false, buffer);
        start = at;
      }
      return window.subarray(at - start, at - start + count);
    };
    for (let at = this.first; at < this.size; ) {
      const section = this.section(at, read);
      yield section;
      at = section.next;
    }
  }

  *[Symbol.iterator]() {
    for (const { cid, content } of this.sections()) yield [cid, content];
  }

  get(cid) {
    const { bytes } = (typeof cid === "string" ? Cid.from(cid) : cid) ?? {};
    for (const at of bytes ? this.places.of(bytes) : []) {
      const section = this.section(at, (place, count) => this.read(place, count));
      if (section.cid.bytes.equals(bytes)) return section.content;
    }
    return undefined;
  }

  has(cid) {
    return this.get(cid) !== undefined;
  }
}

/**
 * Offsets by the end of a CID, in a table with open addressing for `count` CIDs in a file of `size` bytes. It takes 12
 * to 24 bytes a block; a map takes some 200.
 */
class Places {
  constructor(count, size) {
    const slots = 2 ** Math.ceil(Math.log2(count * 1.5 + 2));
    this.last = slots - 1;
    this.hashes = new Uint32Array(slots);
    this.offsets = size < 2 ** 32 ? new Uint32Array(slots) : new Float64Array(slots);
  }

  add(bytes, offset) {
    const hash = bytes.readUInt32LE(bytes.length - 4);
    let slot = hash & this.last;
    while (this.offsets[slot] > 0) slot = (slot + 1) & this.last;
    this.hashes[slot] = hash;
    this.offsets[slot] = offset;
  }

  of(bytes) {
    const hash = bytes.readUInt32LE(bytes.length - 4);
    const offsets = [];
    for (let slot = hash & this.last; this.offsets[slot] > 0; slot = (slot + 1) & this.last) {
      if (this.hashes[slot] === hash) offsets.push(this.offsets[slot]);
    }
    return offsets;
  }
}

/** A number of variable length, and the position of its end. */
function number(bytes, at) {
  let value = 0;
  for (let index = at, unit = 1; index < at + 10 && index < bytes.length; index++, unit *= 128) {
    value += (bytes[index] & 127) * unit;
    if (bytes[index] < 128) return [value, index + 1];
  }
  throw new Error("it has a length without an end");
}

function endOfCid(bytes, at) {
  if (bytes[at] === 0x12 && bytes[at + 1] === 0x20) return at + 34; // version 0
  let [count, end] = [0, at];
  for (let field = 0; field < 4; field++) [count, end] = number(bytes, end); // version, codec, hash, its length
  return end + count;
}

module.exports = { openCar };

// One member's repository, read without the server's libraries: blocks, records, signature, and the account's key.
//
// The format is https://atproto.com/specs/repository: blocks of DAG-CBOR named by their hash, a tree of records (MST),
// a signed commit on top. Owns the format, and where a server keeps it. Whoever checks a backup with the code that
// wrote it learns that the code agrees with itself; this is a second reading, as tools/repository.py is a third one on
// the owner's machine.
"use strict";

const crypto = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");

const BASE32 = "abcdefghijklmnopqrstuvwxyz234567";
const BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

/** A content identifier; its text is base32 of version 1. */
class Cid {
  constructor(bytes) {
    this.bytes = bytes;
  }

  toString() {
    let bits = 0;
    let value = 0;
    let text = "b";
    for (const byte of this.bytes) {
      value = (value << 8) | byte;
      for (bits += 8; bits >= 5; bits -= 5) text += BASE32[(value >> (bits - 5)) & 31];
      value &= 31; // what is left is less than one letter
    }
    return bits > 0 ? text + BASE32[(value << (5 - bits)) & 31] : text;
  }
}

// --- DAG-CBOR (https://ipld.io/specs/codecs/dag-cbor/spec/): definite lengths, text keys, one tag

class Reader {
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
  }

  take(count) {
    if (this.at + count > this.bytes.length) throw new Error("it ends too early");
    this.at += count;
    return this.bytes.subarray(this.at - count, this.at);
  }

  head() {
    const first = this.take(1)[0];
    const info = first & 31;
    if (info < 24) return [first >> 5, info];
    if (info > 27) throw new Error("it has an indefinite length");
    const width = 1 << (info - 24);
    const rest = this.take(width);
    if (first >> 5 === 7) return [7, info, rest];
    return [first >> 5, width === 8 ? Number(rest.readBigUInt64BE()) : rest.readUIntBE(0, width)];
  }

  value() {
    const [major, count, rest] = this.head();
    switch (major) {
      case 0:
        return count;
      case 1:
        return -1 - count;
      case 2:
        return Buffer.from(this.take(count));
      case 3:
        return this.take(count).toString();
      case 4:
        return Array.from({ length: count }, () => this.value());
      case 5:
        return this.map(count);
      case 6:
        if (count !== 42) throw new Error(`it has the tag ${count}`);
        return new Cid(this.value().subarray(1)); // a zero comes first
      default:
        if (count === 27) return rest.readDoubleBE();
        if (count < 20 || count > 22) throw new Error("it has an unknown simple value");
        return [false, true, null][count - 20];
    }
  }

  map(count, entries = []) {
    for (; entries.length < count; ) {
      const from = this.at;
      const key = this.value();
      if (typeof key !== "string") throw new Error("it has a key that is no text");
      entries.push({ key, value: this.value(), from, to: this.at });
    }
    return Object.fromEntries(entries.map(({ key, value }) => [key, value]));
  }
}

/** The value of a whole block. Throws where it is no DAG-CBOR. */
function decode(bytes) {
  const reader = new Reader(bytes);
  const value = reader.value();
  if (reader.at !== bytes.length) throw new Error("it goes on after its end");
  return value;
}

/** The values that follow one another. Throws as above. */
function decodeAll(bytes) {
  const reader = new Reader(bytes);
  const values = [];
  while (reader.at < bytes.length) values.push(reader.value());
  return values;
}

/** What was signed: the commit's block without its signature. The order of the other entries stays. */
function unsigned(bytes) {
  const reader = new Reader(bytes);
  const [, count] = reader.head();
  const entries = [];
  reader.map(count, entries);
  const kept = entries.filter(({ key }) => key !== "sig").map(({ from, to }) => bytes.subarray(from, to));
  return Buffer.concat([Buffer.from([0xa0 | kept.length]), ...kept]);
}

// --- hashes and keys

/** Whether `content` is what `cid` (text) names. */
function isHashOf(cid, content) {
  return isDigestOf(cid, crypto.createHash("sha256").update(content).digest());
}

/** Whether `cid` names what has this SHA-256: version 1, of a record or of raw bytes. */
function isDigestOf(cid, digest) {
  return [0x71, 0x55].some((codec) => new Cid(Buffer.from([1, codec, 0x12, 0x20, ...digest])).toString() === cid);
}

/** A secp256k1 private key of 32 bytes: the key to check signatures with, and its did:key. Throws where it is none. */
function publicKey(privateKey) {
  const pair = crypto.createECDH("secp256k1");
  pair.setPrivateKey(privateKey);
  const point = pair.getPublicKey();
  const [x, y] = [point.subarray(1, 33), point.subarray(33)].map((part) => part.toString("base64url"));
  const compressed = pair.getPublicKey(null, "compressed");
  return {
    verifier: crypto.createPublicKey({ key: { kty: "EC", crv: "secp256k1", x, y }, format: "jwk" }),
    didKey: `did:key:z${base58(Buffer.from([0xe7, 0x01, ...compressed]))}`,
  };
}

function base58(bytes) {
  let number = BigInt(`0x${bytes.toString("hex")}`);
  let text = "";
  for (; number > 0n; number /= 58n) text = BASE58[Number(number % 58n)] + text;
  return text;
}

// --- repositories

/** Path and CID of each record below the tree's node `cid`, in order. */
function* records(blocks, cid) {
  const node = block(blocks, cid);
  if (node.l) yield* records(blocks, node.l);
  let before = Buffer.alloc(0);
  for (const entry of node.e) {
    before = Buffer.concat([before.subarray(0, entry.p), entry.k]);
    yield [before.toString(), entry.v.toString()];
    if (entry.t) yield* records(blocks, entry.t);
  }
}

function block(blocks, cid) {
  const found = blocks.get(cid.toString());
  if (!found) throw new Error(`block ${cid} is missing`);
  return decode(found);
}

/**
 * What is wrong with a repository: `blocks` by CID, its newest commit `root` at `rev`, and `verifier`, with which the
 * account's key is checked. `index` is what the server's own table says, path to CID, where there is one.
 */
function* problems({ blocks, root, rev, did, verifier, index }) {
  for (const [cid, content] of blocks) if (!isHashOf(cid, content)) yield `block ${cid} does not hash to its name`;
  let tree;
  try {
    const commit = block(blocks, root);
    if (commit.rev !== rev || commit.did !== did) {
      yield `commit ${root} is of ${commit.did} at ${commit.rev}, not of ${did} at ${rev}`;
    }
    const key = { key: verifier, dsaEncoding: "ieee-p1363" };
    if (!crypto.verify("sha256", unsigned(blocks.get(root)), key, commit.sig)) {
      yield `commit ${root} is not signed with the account's key`;
    }
    tree = new Map(records(blocks, commit.data));
  } catch (error) {
    yield `the blocks do not link up from the root: ${error.message}`;
    return;
  }
  index ??= tree;
  for (const path of [...new Set([...tree.keys(), ...index.keys()])].sort()) {
    if (tree.get(path) !== index.get(path)) {
      yield `record ${path} is ${tree.get(path)} in the repository and ${index.get(path)} in the index`;
    } else if (!blocks.has(tree.get(path))) yield `record ${path} has no block ${tree.get(path)}`;
  }
}

/**
 * An exported repository in the file `name` (https://ipld.io/specs/transport/car/carv1/): its root, and its blocks as a
 * map that is not in memory. `close` it.
 */
function openCar(name) {
  const handle = fs.openSync(name);
  const { size } = fs.fstatSync(handle);
  const bytes = (at, count) => {
    const buffer = Buffer.alloc(count);
    if (fs.readSync(handle, buffer, 0, count, at) !== count) throw new Error("it ends too early");
    return buffer;
  };
  const length = (at) => {
    const head = bytes(at, Math.min(10, size - at));
    const last = head.findIndex((byte) => byte < 128);
    if (last < 0) throw new Error("it has a length without an end");
    const value = head.subarray(0, last + 1).reduceRight((sum, byte) => sum * 128 + (byte & 127), 0);
    return [at + last + 1, value];
  };
  const [start, count] = length(0);
  const header = decode(bytes(start, count));
  const places = new Map();
  for (let at = start + count; at < size; ) {
    const [from, whole] = length(at);
    if (from + whole > size) throw new Error("it ends too early");
    places.set(new Cid(bytes(from, 36)).toString(), [from + 36, whole - 36]);
    at = from + whole;
  }
  const get = (cid) => (places.has(cid) ? bytes(...places.get(cid)) : undefined);
  return {
    root: header.roots[0].toString(),
    blocks: {
      get,
      has: (cid) => places.has(cid),
      *[Symbol.iterator]() {
        for (const cid of places.keys()) yield [cid, get(cid)];
      },
    },
    close: () => fs.closeSync(handle),
  };
}

// --- where it lies

/** Below the server's data, an account's folder (`getLocation` of @atproto/pds's actor-store). */
function home(did) {
  return path.join("actors", crypto.createHash("sha256").update(did).digest("hex").slice(0, 2), did);
}

/** A file's hash, as hex. */
function sha256(name) {
  const hash = crypto.createHash("sha256");
  const buffer = Buffer.allocUnsafe(1024 * 1024);
  const handle = fs.openSync(name);
  try {
    for (let got; (got = fs.readSync(handle, buffer)) > 0; ) hash.update(buffer.subarray(0, got));
  } finally {
    fs.closeSync(handle);
  }
  return hash.digest("hex");
}

module.exports = { decode, decodeAll, home, isDigestOf, openCar, problems, publicKey, sha256 };

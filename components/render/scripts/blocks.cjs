// Blocks of the AT Protocol, read without the server's libraries: content identifiers and DAG-CBOR.
//
// It reads the two formats and checks whether a block matches its CID. repository.cjs checks what blocks form together.
"use strict";

const crypto = require("node:crypto");

const ALPHABET32 = Buffer.from("abcdefghijklmnopqrstuvwxyz234567");
const DIGITS = new Int8Array(128).fill(-1);
ALPHABET32.forEach((code, digit) => (DIGITS[code] = digit));

const digestOf = crypto.hash // in newer Node versions, and twice as fast
  ? (content) => crypto.hash("sha256", content, "buffer")
  : (content) => crypto.createHash("sha256").update(content).digest();

/** Whether `cid` (text) identifies content with this SHA-256. */
function isDigestOf(cid, digest) {
  return Cid.from(cid)?.names(digest) ?? false;
}

/** A content identifier; its text is base32 of version 1. */
class Cid {
  constructor(bytes) {
    this.bytes = bytes;
  }

  /** Returns undefined if the text is not base32, or not the canonical text of its bytes. */
  static from(text) {
    if (text[0] !== "b") return undefined;
    const bytes = Buffer.alloc(((text.length - 1) * 5) >> 3);
    let [bits, value, at] = [0, 0, 0];
    for (let index = 1; index < text.length; index++) {
      const digit = DIGITS[text.charCodeAt(index)];
      if (!(digit >= 0)) return undefined;
      value = (value << 5) | digit;
      bits += 5;
      if (bits < 8) continue;
      bits -= 8;
      bytes[at++] = value >> bits;
      value &= 255 >> (8 - bits);
    }
    return bits < 5 && value === 0 ? new Cid(bytes) : undefined;
  }

  toString() {
    const { bytes } = this;
    const text = Buffer.allocUnsafe(Math.ceil((bytes.length * 8) / 5));
    let [bits, value, at] = [0, 0, 0];
    for (let index = 0; index < bytes.length; index++) {
      value = ((value & 31) << 8) | bytes[index]; // the rest is less than one letter
      for (bits += 8; bits >= 5; bits -= 5) text[at++] = ALPHABET32[(value >> (bits - 5)) & 31];
    }
    if (bits > 0) text[at] = ALPHABET32[(value << (5 - bits)) & 31];
    return `b${text.latin1Slice()}`;
  }

  /** Whether it identifies content with this SHA-256: version 1, any codec. */
  names(digest) {
    const { bytes } = this;
    const hash = bytes.length - 34;
    if (hash < 2 || bytes[0] !== 1 || bytes[hash] !== 0x12 || bytes[hash + 1] !== 0x20) return false;
    for (let at = 1; at < hash; at++) if (bytes[at] > 127 !== at < hash - 1) return false; // one number
    return bytes.compare(digest, 0, 32, hash + 2) === 0;
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
        return this.list(count);
      case 5:
        return this.map(count);
      case 6:
        return this.link(count);
      default:
        if (count === 27) return rest.readDoubleBE();
        if (count < 20 || count > 22) throw new Error("it has an unknown simple value");
        return [false, true, null][count - 20];
    }
  }

  /** Skips the next value. Returns where it began. */
  skip() {
    const from = this.at;
    for (let left = 1; left > 0; left--) {
      const [major, count] = this.head();
      if (major === 2 || major === 3) this.take(count);
      else if (major === 6) left += 1;
      else if (major === 4 || major === 5) left += (major - 3) * count;
    }
    return from;
  }

  /** Not preallocated: the count may be any number. */
  list(count) {
    const values = [];
    while (values.length < count) values.push(this.value());
    return values;
  }

  link(tag) {
    const bytes = tag === 42 && this.value();
    if (!Buffer.isBuffer(bytes) || bytes[0] !== 0) throw new Error("it has a tag that is not a link");
    return new Cid(bytes.subarray(1)); // after a leading zero
  }

  map(count, entries = []) {
    for (; entries.length < count; ) {
      const from = this.at;
      const key = this.value();
      if (typeof key !== "string") throw new Error("it has a key that is not text");
      entries.push({ key, value: this.value(), from, to: this.at });
    }
    return Object.fromEntries(entries.map(({ key, value }) => [key, value]));
  }
}

/** The value of a whole block. Throws if it is no DAG-CBOR. */
function decode(bytes) {
  const reader = new Reader(bytes);
  const value = reader.value();
  if (reader.at !== bytes.length) throw new Error("it continues after its end");
  return value;
}

/** The values that follow one another. Throws as above. */
function decodeAll(bytes) {
  const reader = new Reader(bytes);
  const values = [];
  while (reader.at < bytes.length) values.push(reader.value());
  return values;
}

module.exports = { Cid, Reader, decode, decodeAll, digestOf, isDigestOf };

// Reads one member's repository without the server's libraries: blocks, records, signature, and the account's key.
//
// The format is https://atproto.com/specs/repository: blocks of DAG-CBOR named by their hash, a tree of records (MST),
// a signed commit on top. Checking a backup with the code that wrote it
// only proves that the code agrees with itself. This is a second implementation; cli/snapshot/repository.py is a third one, on
// the operator's machine.
"use strict";

const crypto = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");
const { Cid, Reader, decode, decodeAll, digestOf, isDigestOf } = require("./blocks.cjs");
const { openCar } = require("./car.cjs");

const BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
const PATH = /^[\w~.:-]+\/[\w~.:-]+$/; // https://atproto.com/specs/repository#repo-paths, and the server's own check

// --- keys and signatures

/** The verifying key and the did:key of a secp256k1 private key of 32 bytes. Throws if it is invalid. */
function publicKey(privateKey) {
  const pair = crypto.createECDH("secp256k1");
  if (privateKey.length !== 32) throw new Error(`it has ${privateKey.length} bytes`); // OpenSSL accepts fewer
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

/** The signed bytes: the commit's block without its signature, with its other entries in order. */
function unsigned(bytes) {
  const reader = new Reader(bytes);
  const [, count] = reader.head();
  const entries = [];
  reader.map(count, entries);
  const kept = entries.filter(({ key }) => key !== "sig").map(({ from, to }) => bytes.subarray(from, to));
  return Buffer.concat([Buffer.from([0xa0 | kept.length]), ...kept]);
}

// --- repositories: walked in order, so that memory does not grow with the records

/** One node of a tree, read entry by entry: a node with many entries is large enough as bytes. */
class Node {
  constructor(blocks, cid) {
    this.cid = cid;
    this.left = null;
    const reader = new Reader(found(blocks, cid));
    this.reader = reader;
    this.decoded(() => {
      const [major, count] = reader.head();
      for (let index = 0; index < count && major === 5; index++) this.field(reader.value());
      if (reader.at !== reader.bytes.length || this.from === undefined) throw new Error("it has other fields");
    });
  }

  field(name) {
    if (name === "l") this.left = this.reader.value();
    else if (name === "e") this.from = this.reader.skip();
    else throw new Error("it has other fields");
    if (!isLink(this.left)) throw new Error("its left side is not a link");
  }

  decoded(read) {
    try {
      return read();
    } catch (error) {
      throw this.fault(`is not a node of a tree: ${error.message}`);
    }
  }

  fault(text) {
    return new Error(`node ${this.cid} ${text}`);
  }

  /** Key, value and right subtree of each entry. */
  *entries() {
    this.reader.at = this.from;
    const [major, count] = this.reader.head();
    if (major !== 4) throw this.fault("is not a node of a tree: it has no list");
    let before = "";
    for (let index = 0; index < count; index++) {
      const { p, k, v, t } = this.decoded(() => this.entry());
      const key = before.slice(0, p) + k.latin1Slice();
      if (key.length > 1024 || !PATH.test(key)) throw this.fault("has a key that is not a path");
      const longer = p < before.length && before[p] === key[p];
      if (!Number.isInteger(p) || p < 0 || p > before.length || longer) {
        throw this.fault(`has ${key} with a wrong prefix`);
      }
      yield [key, v, t];
      before = key;
    }
  }

  entry() {
    const entry = this.reader.value();
    if (Buffer.isBuffer(entry.k) && entry.v instanceof Cid && isLink(entry.t)) return entry;
    throw new Error("it has an entry of another form");
  }
}

/** Whether it is a CID, or null for no link. */
function isLink(value) {
  return value === null || value instanceof Cid;
}

/** The layer of a key in a tree: half the number of leading zero bits of its hash. */
function layerOf(key) {
  const digest = digestOf(key);
  let zeros = 0;
  while (digest[zeros] === 0) zeros++;
  return zeros * 4 + ((Math.clz32(digest[zeros]) - 24) >> 1);
}

/**
 * Path and CID of each record in the tree below the node `top`, in the order of their bytes. Throws if it is not a tree.
 * Terminates for any blocks: a step down is a layer down, and the keys of a subtree reached twice do not ascend.
 */
function* records(blocks, top) {
  let last = "";
  function* below(node, layer) {
    let empty = node.left === null;
    if (layer < 0) throw node.fault("is below the lowest layer");
    if (node.left) yield* below(new Node(blocks, node.left), layer - 1);
    for (const [key, value, right] of node.entries()) {
      empty = false;
      if (key <= last) throw node.fault(`has ${key} after ${last}`);
      const own = layerOf(key);
      if (own !== layer) throw node.fault(`has ${key} in layer ${layer}, not ${own}`);
      last = key;
      yield [key, value];
      if (right) yield* below(new Node(blocks, right), layer - 1);
    }
    if (empty) throw node.fault("is empty");
  }
  const root = new Node(blocks, top);
  const [first] = root.entries().next().value ?? [];
  if (first !== undefined) yield* below(root, layerOf(first));
  else if (root.left) throw root.fault("is the root and has no key"); // without both there are no records
}

function found(blocks, cid) {
  const content = blocks.get(cid);
  if (!content) throw new Error(`block ${cid} is missing`);
  return content;
}

/**
 * The faults of a repository: `blocks`, its newest commit `root` (text) at `rev`, and `verifier`, which checks
 * the account's key. `index` is the content of the server's own table, if there is one: an iterable of `uri`, `cid`
 * (text), `filed` (the path by the other columns) and `stored` (whether the block exists), in the order of the URIs.
 *
 * Each fault has a `text` and a `kind`: "block" (`cid`) for one that does not match its CID, "signature" if the newest
 * commit has another account or key, "record" for a record (path) without its block, "index" for a record that differs
 * in the table (`lost` if the table lacks it), "tree" for any other broken link.
 */
function* problems({ blocks, root, rev, did, verifier, index }) {
  yield* damaged(blocks);
  const content = blocks.get(root);
  const faults = [...commitProblems({ content, root, rev, did, verifier })];
  yield* faults;
  if (faults.some(({ kind, fatal }) => kind === "tree" && fatal)) return;
  try {
    const tree = records(blocks, decode(content).data);
    yield* index ? differences(tree, index, `at://${did}/`) : lacking(tree, blocks);
  } catch (error) {
    yield { kind: "tree", text: `the blocks do not link up from the root: ${error.message}` };
  }
}

/**
 * The faults of the newest commit, whose block is `content`; other parameters as for `problems`.
 *
 * A commit at another revision than its repository was imported: the server's importRepo.js stores the newest commit of
 * the account's old server unchanged, and sets a revision of its own. The server signs a new commit with the next write.
 * Until then the signature is that of a key that is not here, and proves nothing. A key that was exchanged for another
 * one changes no revision.
 */
function* commitProblems({ content, root, rev, did, verifier }) {
  let commit, signed;
  try {
    if (!content) throw new Error(`block ${root} is missing`);
    if (!isDigestOf(root, digestOf(content))) throw new Error(`block ${root} does not hash to its name`);
    commit = decode(content);
    signed = crypto.verify("sha256", unsigned(content), { key: verifier, dsaEncoding: "ieee-p1363" }, commit.sig);
  } catch (error) {
    yield { kind: "tree", fatal: true, text: `the blocks do not link up from the root: ${error.message}` };
    return;
  }
  if (commit.did !== did) yield { kind: "signature", text: `commit ${root} is of ${commit.did}, not of ${did}` };
  if (!signed && commit.rev === rev) yield { kind: "signature", text: `commit ${root} is not signed with the account's key` };
}

function* damaged(blocks) {
  for (const [cid, content] of blocks) {
    const name = cid instanceof Cid ? cid : Cid.from(String(cid));
    if (name?.names(digestOf(content))) continue;
    yield { kind: "block", cid: String(cid), text: `block ${cid} does not hash to its name` };
  }
}

function withoutBlock(record, cid) {
  return { kind: "record", record, text: `record ${record} has no block ${cid}` };
}

function* lacking(tree, blocks) {
  for (const [path, cid] of tree) if (!blocks.has(cid)) yield withoutBlock(path, cid);
}

/** Compares tree and table. Both are in the order of their URIs, so neither is held in memory. */
function* differences(tree, index, prefix) {
  const rows = index[Symbol.iterator]();
  const next = () => rows.next().value;
  const differs = (record, here, there) => {
    const text = `record ${record} is ${here} in the repository and ${there} in the index`;
    return { kind: "index", record, lost: there === undefined, text };
  };
  const surplus = ({ uri, cid }) => differs(uri.startsWith(prefix) ? uri.slice(prefix.length) : uri, undefined, cid);
  try {
    let row = next();
    for (const [path, value] of tree) {
      const uri = prefix + path;
      for (; row && row.uri < uri; row = next()) yield surplus(row);
      const cid = String(value);
      const same = row?.uri === uri ? row : undefined;
      if (same?.cid !== cid) yield differs(path, cid, same?.cid);
      else if (!same.stored) yield withoutBlock(path, cid);
      if (same && same.filed !== path) {
        yield { kind: "index", record: path, text: `record ${path} is listed as ${same.filed} in the index` };
      }
      if (same) row = next();
    }
    for (; row; row = next()) yield surplus(row);
  } finally {
    rows.return?.(); // an unfinished statement keeps its database open
  }
}

// --- locations

/** An account's folder below the server's data (`getLocation` of @atproto/pds's actor-store). */
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

/** Whether `content` matches `cid` (text). */
function isHashOf(cid, content) {
  return isDigestOf(cid, digestOf(content));
}

module.exports = { commitProblems, decode, decodeAll, home, isDigestOf, isHashOf, openCar, problems, publicKey, sha256 };

// Places that hold blobs: a folder, a bucket, and encrypted copies beside the backups. Each has the same methods.
//
// The names of objects are those of the server's bucket (@atproto/aws, s3.js): blocks/DID/CID, quarantine/DID/CID for
// blobs that were taken down, tmp/DID/KEY for uploads without a record. The server's folders map to them. A blob never
// changes, and its CID is its SHA-256: `put` refuses any other content, and a bucket's service checks it again.
"use strict";

const crypto = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");
const { createRequire } = require("node:module");
const { Transform } = require("node:stream");
const { pipeline } = require("node:stream/promises");
const { Cid, isDigestOf } = require("./blocks.cjs");
const { NO_FOLDER, entries, sync } = require("./files.cjs");

const ATTEMPTS = 5; // for an upload; the library repeats all other requests by itself
const CONNECT = 5000; // ms
const STALLED = 30000; // ms without an answer
const AT_ONCE = 4; // deletions
const [NONCE, TAG] = [12, 16]; // bytes of AES-256-GCM
const QUIET = Object.fromEntries(["trace", "debug", "info", "warn", "error"].map((name) => [name, () => {}]));
const TRANSIENT = /^(TimeoutError|SlowDown|RequestTimeout|InternalError|ServiceUnavailable|NetworkingError)$/;

/** The content is not that of the blob. */
class Damaged extends Error {}

/** The SHA-256 in a blob's CID, as hex. */
function digestIn(cid) {
  const known = Cid.from(cid)?.bytes.subarray(-32);
  if (!known || !isDigestOf(cid, known)) throw new Damaged(`${cid} is not the name of a blob`);
  return Buffer.from(known).toString("hex");
}

/** Passes a blob's content on, and fails before its last part if it does not match `cid`. */
function checked(cid) {
  const hash = crypto.createHash("sha256");
  let last = null;
  return new Transform({
    transform(part, _encoding, done) {
      hash.update(part);
      const before = last;
      last = part;
      done(null, before);
    },
    flush(done) {
      if (!isDigestOf(cid, hash.digest())) return done(new Damaged(`blob ${cid} does not match its name`));
      done(null, last);
    },
  });
}

/** The streams as one, with the error of any of them. */
function chained(first, ...rest) {
  const [last] = rest.slice(-1);
  pipeline(first, ...rest).catch((error) => last.destroy(error));
  return last;
}

// --- a folder

class Folder {
  /** `places` maps the first part of a name to a folder. */
  constructor(places) {
    this.places = places;
  }

  file(name) {
    const [place, ...rest] = name.split("/");
    return path.join(this.places[place], ...rest);
  }

  /** A map from the name of each object to its size; of one account if `did` is given. */
  async index(did) {
    const found = new Map();
    for (const [place, folder] of Object.entries(this.places)) {
      for (const owner of entries(folder, NO_FOLDER).filter((name) => name.startsWith("did:") && (!did || name === did))) {
        for (const name of entries(path.join(folder, owner), NO_FOLDER)) {
          const about = fs.statSync(path.join(folder, owner, name), { throwIfNoEntry: false });
          if (about?.isFile() && !name.endsWith(PART)) found.set(`${place}/${owner}/${name}`, about.size);
        }
      }
    }
    return found;
  }

  /** Removes what a killed run left behind. */
  tidy() {
    for (const folder of Object.values(this.places)) {
      for (const owner of entries(folder, NO_FOLDER).filter((name) => name.startsWith("did:"))) {
        const left = entries(path.join(folder, owner), NO_FOLDER).filter((name) => name.endsWith(PART));
        for (const name of left) fs.rmSync(path.join(folder, owner, name), { force: true });
      }
    }
  }

  /** The content as a stream; null if there is none. */
  async get(name) {
    try {
      return fs.createReadStream(null, { fd: fs.openSync(this.file(name)) });
    } catch (error) {
      if (error.code === "ENOENT") return null;
      throw error;
    }
  }

  /** Stores the blob `cid` of `size` bytes, which `open` opens, under `name`. */
  async put(name, cid, size, open) {
    await this.store(name, async () => chained(await open(), checked(cid)));
  }

  async store(name, open) {
    const target = this.file(name);
    const part = `${target}${PART}`;
    fs.mkdirSync(path.dirname(target), { recursive: true });
    try {
      await pipeline(await open(), fs.createWriteStream(part, { mode: 0o600, flush: true }));
      fs.renameSync(part, target);
    } catch (error) {
      fs.rmSync(part, { force: true });
      throw error;
    }
    sync(path.dirname(target));
  }

  async remove(names) {
    for (const name of names) fs.rmSync(this.file(name), { force: true });
  }
}

const PART = ".part"; // no CID and no key of an upload has a dot

// --- a bucket

class Bucket {
  /** `below` is the first part of every name in the bucket. */
  constructor({ bucket, below = "", endpoint, region, keyId, secret, pathStyle = false, attempts = ATTEMPTS }) {
    this.bucket = bucket;
    this.below = below;
    // The image has the library as a dependency of the server's own store only.
    const app = createRequire(path.join(process.cwd(), "x.js"));
    const server = createRequire(app.resolve("@atproto/pds/package.json"));
    this.sdk = createRequire(server.resolve("@atproto/aws"))("@aws-sdk/client-s3");
    this.client = new this.sdk.S3({
      endpoint,
      region,
      credentials: { accessKeyId: keyId, secretAccessKey: secret },
      forcePathStyle: pathStyle,
      followRegionRedirects: true,
      requestChecksumCalculation: "WHEN_REQUIRED",
      responseChecksumValidation: "WHEN_REQUIRED",
      maxAttempts: attempts,
      logger: QUIET,
      requestHandler: { connectionTimeout: CONNECT, requestTimeout: STALLED },
    });
  }

  async index(did, about = ({ Size }) => Size) {
    const found = new Map();
    for (const place of ["blocks/", "quarantine/", "tmp/"]) {
      const Prefix = this.below + place + (did ? `${did}/` : "");
      let ContinuationToken;
      do {
        const page = await this.ask(this.client.listObjectsV2({ Bucket: this.bucket, Prefix, ContinuationToken }));
        for (const object of page.Contents ?? []) found.set(object.Key.slice(this.below.length), about(object));
        ContinuationToken = page.IsTruncated ? page.NextContinuationToken : undefined;
      } while (ContinuationToken);
    }
    return found;
  }

  async get(name) {
    try {
      return (await this.client.getObject({ Bucket: this.bucket, Key: this.below + name })).Body;
    } catch (error) {
      if (error.name === "NoSuchKey" || error.name === "NotFound") return null;
      throw this.told(error);
    }
  }

  async put(name, cid, size, open) {
    await this.send(name, size, async () => chained(await open(), checked(cid)), digestIn(cid));
  }

  /** Uploads what `open` opens. With a `digest` the service checks the content. */
  async send(name, size, open, digest) {
    for (let attempt = 1; ; attempt++) {
      const body = await open();
      const stop = new AbortController();
      let fault = null;
      body.once("error", (error) => stop.abort((fault = error))); // the library would wait for the rest
      const request = new this.sdk.PutObjectCommand({
        Bucket: this.bucket,
        Key: this.below + name,
        Body: size === 0 ? "" : body,
        ContentLength: size,
      });
      if (digest) request.middlewareStack.add(signedWith(digest), { step: "build" });
      try {
        return await this.client.send(request, { abortSignal: stop.signal });
      } catch (error) {
        body.destroy();
        const again = fault || TRANSIENT.test(error.name) || error.$metadata?.httpStatusCode >= 500 || error.code !== undefined;
        if (fault instanceof Damaged || !again || attempt === ATTEMPTS) throw fault ?? this.told(error);
        await new Promise((resume) => setTimeout(resume, 200 * 2 ** attempt));
      }
    }
  }

  /** One by one: whether a key that is limited to a bucket may delete many at once is not published. */
  async remove(names) {
    const left = [...names];
    const next = async () => {
      for (let name; (name = left.pop()) !== undefined; ) {
        await this.ask(this.client.deleteObject({ Bucket: this.bucket, Key: this.below + name }));
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, next));
  }

  /**
   * Deletes one object within `ms`, for a caller that holds a lock. The service may do it later than it was given up, when
   * the lock is free. If the same blob was uploaded again and named by a record in between, that copy is deleted. Nothing
   * is lost for good: the bucket keeps it as an old version for 30 days, and the next backup reports the blob as missing.
   */
  async removeWithin(name, ms) {
    const abortSignal = AbortSignal.timeout(ms);
    const request = this.client.deleteObject({ Bucket: this.bucket, Key: this.below + name }, { abortSignal });
    await request.catch((error) => {
      throw abortSignal.aborted ? new Error(`the bucket ${this.bucket} did not delete ${name} within ${ms / 1000} s`) : this.told(error);
    });
  }

  async ask(answer) {
    try {
      return await answer;
    } catch (error) {
      throw this.told(error);
    }
  }

  /** The service's refusal, with the name of the bucket and a remedy. */
  told(error) {
    const remedy = REMEDIES[error.name] ?? "";
    const code = error.$metadata?.httpStatusCode ? `${error.$metadata.httpStatusCode} ` : "";
    return Object.assign(new Error(`the bucket ${this.bucket} answers ${code}${error.name}: ${error.message?.replace(/\.$/, "")}.${remedy}`), { service: true });
  }
}

const REMEDIES = {
  InvalidAccessKeyId: " The key was deleted: `./pds repair STACK`.",
  SignatureDoesNotMatch: " The secret of the key is another one: `pulumi up --refresh`.",
  AccessDenied: " The key is another bucket's, or the bucket another account's.",
  NoSuchBucket: " There is no bucket of that name in this region: see 'bucket' and 'region' of 'blobs'.",
  PermanentRedirect: " The bucket is in another region: see 'region' of 'blobs'.",
  AuthorizationHeaderMalformed: " The bucket is in another region: see 'region' of 'blobs'.",
};

/** The payload's hash in the signature: the service refuses a body that differs (sig-v4-header-based-auth). */
function signedWith(digest) {
  return (next) => (args) => {
    args.request.headers["x-amz-content-sha256"] = digest;
    return next(args);
  };
}

// --- encrypted copies beside the backups

class Sealed {
  /** Copies in `store` under the password of the backups. */
  constructor(store, password, hostname) {
    this.store = store;
    this.key = crypto.scryptSync(password, `pds blobs of ${hostname}`, 32, { N: 2 ** 14 });
  }

  /** Sizes are those of the blobs. */
  async index(did) {
    const sealed = await this.store.index(did);
    return new Map([...sealed].map(([name, size]) => [name, size - NONCE - TAG]));
  }

  async get(name) {
    const sealed = await this.store.get(name);
    return sealed && chained(sealed, this.opened(name));
  }

  async put(name, cid, size, open) {
    const sealed = async () => chained(await open(), checked(cid), this.closed(name));
    if (this.store.send) await this.store.send(name, size + NONCE + TAG, sealed);
    else await this.store.store(name, sealed);
  }

  async remove(names) {
    await this.store.remove(names);
  }

  closed(name) {
    const nonce = crypto.randomBytes(NONCE);
    const cipher = crypto.createCipheriv("aes-256-gcm", this.key, nonce).setAAD(Buffer.from(name));
    let begun = false;
    const begin = (part) => (begun ? part : ((begun = true), Buffer.concat([nonce, part])));
    return new Transform({
      transform: (part, _encoding, done) => done(null, begin(cipher.update(part))),
      flush: (done) => done(null, begin(Buffer.concat([cipher.final(), cipher.getAuthTag()]))),
    });
  }

  opened(name) {
    let [held, cipher] = [Buffer.alloc(0), null]; // the last bytes may be the tag
    return new Transform({
      transform: (part, _encoding, done) => {
        held = Buffer.concat([held, part]);
        if (!cipher && held.length >= NONCE) {
          cipher = crypto.createDecipheriv("aes-256-gcm", this.key, held.subarray(0, NONCE)).setAAD(Buffer.from(name));
          held = held.subarray(NONCE);
        }
        const ready = cipher ? Math.max(0, held.length - TAG) : 0;
        const content = ready > 0 ? cipher.update(held.subarray(0, ready)) : null;
        held = held.subarray(ready);
        done(null, content?.length ? content : null);
      },
      flush: (done) => {
        try {
          if (!cipher || held.length !== TAG) throw new Error("it is cut short");
          cipher.setAuthTag(held);
          done(null, cipher.final());
        } catch (error) {
          done(new Damaged(`the copy of ${name} cannot be decrypted: ${error.message}`));
        }
      },
    });
  }
}

// --- those of a PDS, from its environment

function volumeStore(data) {
  const blocks = path.join(data, "blocks");
  return new Folder({ blocks, quarantine: path.join(blocks, "quarantine"), tmp: path.join(data, "temp") });
}

/** The server's bucket; null if its settings name none. */
function bucketStore(env = process.env, attempts = ATTEMPTS) {
  const named = (name) => env[`PDS_BLOBSTORE_S3_${name}`];
  if (!named("BUCKET")) return null;
  return new Bucket({
    bucket: named("BUCKET"),
    endpoint: named("ENDPOINT"),
    region: named("REGION"),
    keyId: named("ACCESS_KEY_ID"),
    secret: named("SECRET_ACCESS_KEY"),
    pathStyle: named("FORCE_PATH_STYLE") === "true",
    attempts,
  });
}

/** The copies beside restic's repository, by restic's variables; null without backups. */
function backupStore(env = process.env) {
  if (!env.RESTIC_REPOSITORY) return null;
  const [, endpoint, bucket, place] = /^s3:(https?:\/\/[^/]+)\/([^/]+)\/(.+)$/.exec(env.RESTIC_REPOSITORY) ?? [];
  const below = (place ?? env.RESTIC_REPOSITORY) + "-blobs";
  const store = endpoint
    ? new Bucket({
        bucket,
        below: `${below}/`,
        endpoint,
        region: env.AWS_DEFAULT_REGION || "us-east-1",
        keyId: env.AWS_ACCESS_KEY_ID,
        secret: env.AWS_SECRET_ACCESS_KEY,
        pathStyle: !/(amazonaws|digitaloceanspaces)\.com$/.test(endpoint),
      })
    : new Folder({ blocks: path.join(below, "blocks") });
  return new Sealed(store, env.RESTIC_PASSWORD, env.PDS_HOSTNAME);
}

/** Reads the object to its end. Returns its size; throws Damaged if it is not the blob `cid`, null if there is none. */
async function verified(store, name, cid) {
  const content = await store.get(name);
  if (!content) return null;
  let size = 0;
  for await (const part of chained(content, checked(cid))) size += part.length;
  return size;
}

/** Whether the object is there, can be read and is the blob `cid`. */
async function isIntact(store, name, cid) {
  return (await verified(store, name, cid).catch(() => null)) !== null;
}

module.exports = { Bucket, Damaged, Folder, Sealed, backupStore, bucketStore, digestIn, isIntact, verified, volumeStore };

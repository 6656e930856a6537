// Preloaded into a program that copies from a bucket: deletes the object GONE once the bucket was listed. STORES is the
// path of blob_stores.cjs.
"use strict";

const { Bucket } = require(process.env.STORES);

const { index } = Bucket.prototype;
let done = false;

Bucket.prototype.index = async function (...given) {
  const found = await index.apply(this, given);
  if (!done && found.has(process.env.GONE)) {
    done = true;
    await this.remove([process.env.GONE]);
  }
  return found;
};

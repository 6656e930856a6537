// Runs before the server: as a task of its own, and at every start in the server's process. Refuses a volume of another
// PDS, and an empty volume without `pds.new`: a healthy empty PDS would create new identities for existing handles. It also
// refuses accounts without their database: the server would make an empty one, and answer as if there were no members.
//
// The identity file on the volume holds the hostname and the rotation key's public half, which is in every DID document anyway.
// The blob file beside it holds where the blobs are: a server that looks elsewhere would serve none of them. `./pds blobs`
// changes it after it has copied them (blob_place.cjs).
if (!require("node:worker_threads").isMainThread) return;

const fs = require("node:fs");
const path = require("node:path");
const crypto = require("node:crypto");
const blobPlace = require("./blob_place.cjs");
const { folders, writeWhole } = require("./files.cjs");

const directory = process.env.PDS_DATA_DIRECTORY;
const identityFile = path.join(directory, ".pds-identity.json");

function refuse(problem, remedy) {
  console.error(`REFUSED: ${problem}\n  ${remedy}`);
  process.exit(1);
}

/** Refuses accounts without account.sqlite. SQLite removes the log beside an empty database. */
function refuseLostAccounts() {
  if (fs.statSync(path.join(directory, "account.sqlite"), { throwIfNoEntry: false })?.size > 0) return;
  const unread = [];
  const accounts = folders(directory, (error) => unread.push(error));
  if (accounts.length + unread.length === 0) return;
  refuse(
    `account.sqlite is missing or empty, and actors/ ${unread.length > 0 ? `cannot be read (${unread[0].message})` : "holds accounts"}.`,
    "Restore a backup: `./pds restore STACK`. Without one, look for the file in lost+found on the volume."
  );
}

const pair = crypto.createECDH("secp256k1");
pair.setPrivateKey(process.env.PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX, "hex");
const ours = {
  hostname: process.env.PDS_HOSTNAME,
  rotation_public_key: pair.getPublicKey("hex", "compressed"),
};

if (fs.existsSync(path.join(directory, ".restore", "swap.json"))) {
  refuse("a restore was cut short between the old data and the new.", "Run `./pds restore` again to continue.");
}

if (fs.existsSync(identityFile)) {
  const theirs = JSON.parse(fs.readFileSync(identityFile, "utf8"));
  for (const name of Object.keys(ours)) {
    if (theirs[name] !== ours[name]) {
      refuse(
        `this volume belongs to a PDS with ${name} ${theirs[name]}; the stack has ${ours[name]}.`,
        "Attach this stack's own volume, or give the stack that PDS's hostname and rotation key (pds:secrets)."
      );
    }
  }
  refuseLostAccounts();
  console.log(`the volume is that of ${ours.hostname}`);
} else {
  // Files of the file system, leftovers of a crash of this script, and the first files of backup and restore.
  const nothing = ["lost+found", `${path.basename(identityFile)}.tmp`, ".snapshot", ".run-status", ".restore", blobPlace.FILE];
  const data = fs.readdirSync(directory).filter((name) => !nothing.includes(name));
  if (data.length === 0 && process.env.PDS_VOLUME_CHECK_NEW !== "true") {
    refuse(
      "the volume is empty, and the stack does not say that this PDS is new.",
      "Restore its data, or for a first start set 'pds.new' to true in the stack file."
    );
  }
  if (data.length > 0 && process.env.PDS_VOLUME_CHECK_ADOPT !== "true") {
    refuse(
      "the volume holds data without the identity file of any PDS (.pds-identity.json).",
      "If it is this PDS's data, set 'volume.adopt' to the volume's ID in the stack file."
    );
  }
  refuseLostAccounts();
  writeWhole(identityFile, JSON.stringify(ours, null, 2) + "\n"); // data without it would be refused after a power cut
  console.log(`wrote the identity file for ${ours.hostname}`);
}

const wrongPlace = blobPlace.fault(directory, blobPlace.ofServer());
if (wrongPlace) refuse(...wrongPlace);
blobPlace.record(directory, blobPlace.ofServer());

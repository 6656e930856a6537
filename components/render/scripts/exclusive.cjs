// Exclusive access to a data directory, for the programs that replace what a server or a snapshot reads.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { Database } = require("./account_check.cjs");

const WAIT = 15 * 60 * 1000; // ms; enough for a running snapshot to finish
const held = []; // locks, until the process ends

/** Nothing was changed; the message gives the reason. */
class Refused extends Error {}

/** Takes the lock of the snapshot program, which must not copy data that are being moved. */
function alone(data) {
  fs.mkdirSync(path.join(data, ".snapshot"), { recursive: true, mode: 0o700 });
  const lock = new Database(path.join(data, ".snapshot", "lock.sqlite"), { timeout: WAIT });
  try {
    lock.exec("begin exclusive");
  } catch (error) {
    throw error.code === "SQLITE_BUSY" ? new Refused("a snapshot, a restore or a move of blobs is under way.") : error;
  }
  held.push(lock);
}

/**
 * Refuses a running server, which has its account database open, so that no other program can lock it exclusively.
 * Returns the locked database, so that no server starts on it meanwhile; undefined without one. Throws SQLite's error.
 */
function stopped(data) {
  const file = path.join(data, "account.sqlite");
  if (!fs.existsSync(file)) return undefined;
  try {
    const db = new Database(file, { fileMustExist: true, timeout: 2000 });
    db.pragma("locking_mode = exclusive");
    db.exec("begin immediate");
    db.exec("rollback");
    held.push(db);
    return db;
  } catch (error) {
    throw error.code === "SQLITE_BUSY" ? new Refused("the server is running on these data. Pause it first.") : error;
  }
}

/** Whether the server has its lock on these data (data_lock.cjs), also while another program has a database open. */
function isServed(data) {
  const file = path.join(data, ".run-status", "server-lock.sqlite");
  if (!fs.existsSync(file)) return false;
  const db = new Database(file, { readonly: true, timeout: 0 });
  try {
    db.prepare("select count(*) from sqlite_master").get();
    return false;
  } catch (error) {
    if (error.code === "SQLITE_BUSY") return true;
    throw error;
  } finally {
    db.close();
  }
}

module.exports = { Refused, alone, isServed, stopped };

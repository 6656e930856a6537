// Loaded into the PDS after durable.cjs: it reports, one line of JSON each into the file REPORT, the flush
// level of the connection under every statement that writes, and which inodes are flushed.
const fs = require("node:fs");

const report = (line) => fs.appendFileSync(process.env.REPORT, JSON.stringify(line) + "\n");

const { dlopen } = process;
process.dlopen = function (module, ...rest) {
  const result = dlopen.call(this, module, ...rest);
  const native = module.exports?.Database?.prototype;
  if (native) {
    const { prepare } = native;
    native.prepare = function (source, ...more) {
      const statement = prepare.call(this, source, ...more);
      if (/^\s*(insert|update|delete)\b/i.test(source)) {
        const synchronous = prepare.call(this, "PRAGMA synchronous", this, true).pluck().get();
        report({ database: this.name, synchronous });
      }
      return statement;
    };
  }
  return result;
};

fs.promises.open(__filename).then(async (handle) => {
  const { prototype } = handle.constructor;
  const { sync } = prototype;
  prototype.sync = async function () {
    await sync.call(this);
    report({ inode: fs.fstatSync(this.fd).ino });
  };
  await handle.close();
});

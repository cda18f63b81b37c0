'use strict';
// Gives every Node binary that npm chose for this machine's processor one name: node_modules/node-24 and so on.
const fs = require('fs');
const path = require('path');

const modules = path.join(__dirname, 'node_modules');
for (const major of [18, 20, 22, 24, 26]) {
  const target = `node-${major}-${process.arch}`;
  if (!fs.existsSync(path.join(modules, target))) {
    throw new Error(`${target} was not installed; on this machine npm has no Node ${major} binary`);
  }
  const link = path.join(modules, `node-${major}`);
  fs.rmSync(link, { force: true, recursive: true });
  fs.symlinkSync(target, link);
}

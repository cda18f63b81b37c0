// throws before it has started
await null;
throw new SyntaxError('from ESM');

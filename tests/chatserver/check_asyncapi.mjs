// Reads an AsyncAPI document with the reference parser; prints what it finds, one JSON object a line.
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';

const [installed, file] = process.argv.slice(2);
const { Parser } = createRequire(`${installed}/`)('@asyncapi/parser');
const { document, diagnostics } = await new Parser().parse(readFileSync(file, 'utf8'));
for (const { severity, code, message, path } of diagnostics) console.log(JSON.stringify({ severity, code, message, path }));
process.exitCode = document ? 0 : 1;

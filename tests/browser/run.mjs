// node run.mjs CLIENT: calls on stdin, one JSON object a line; what is told on stdout.

import { createInterface } from 'node:readline'
import { drive } from './harness.js'

const call = drive(await import(process.argv[2]), (told) => process.stdout.write(JSON.stringify(told) + '\n'))
for await (const line of createInterface({ input: process.stdin })) call(JSON.parse(line))
process.exit() // whatever the client still waits for

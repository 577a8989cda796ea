// Builds every kernel: assembly/<name>.ts becomes wasm/<name>.wasm. Built from source, never committed.
import { mkdirSync, readdirSync, readFileSync } from "node:fs";
import { basename } from "node:path";
import asc from "assemblyscript/asc";

mkdirSync("wasm", { recursive: true });
const entries = readdirSync("assembly").filter((file) => file.endsWith(".ts"));
for (const file of entries) {
  // Entries stand in assembly/ itself, their parts in folders; a file that exports no function is a part, too.
  if (!/^export (function|\{)/m.test(readFileSync(`assembly/${file}`, "utf8"))) continue;
  const { error, stderr } = await asc.main([
    `assembly/${file}`,
    "--outFile",
    `wasm/${basename(file, ".ts")}.wasm`,
    "-O3",
    "--noAssert",
    "--enable",
    "simd",
    "--runtime",
    "stub",
    "--importMemory",
    "--use",
    "abort=",
  ]);
  if (error) {
    console.error(`assembly/${file}: ${error.message}\n${stderr.toString()}`);
    process.exit(1);
  }
}

// The tests' fake Hub as a process of its own, for benches and for trying other clients by hand.
//   node bench/fake-hub.mjs org/name=FOLDER ... [--rate 200e6] [--port 0] [--write-token hf_write]
// Prints its endpoint; ends with its stdin. What is pushed to it lives in memory.
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import ts from "typescript";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    rate: { type: "string", default: "0" },
    port: { type: "string", default: "0" },
    "write-token": { type: "string", default: "hf_write" },
  },
});
// The tests are TypeScript, which Node 20 does not run.
const built = mkdtempSync(join(tmpdir(), "physarium-fake-hub-"));
try {
  for (const name of ["fake-hub", "fake-uploads"]) {
    const source = readFileSync(fileURLToPath(new URL(`../test/hub/${name}.ts`, import.meta.url)), "utf8");
    const { outputText } = ts.transpileModule(source, { compilerOptions: { module: "ESNext", target: "ES2022" } });
    writeFileSync(join(built, `${name}.mjs`), outputText.replaceAll(/"\.\/(fake-\w+)\.js"/g, '"./$1.mjs"'));
  }
  const { FakeHub } = await import(pathToFileURL(join(built, "fake-hub.mjs")).href);
  const hub = await FakeHub.start(Number(values.port));
  hub.bytesPerSecond = Number(values.rate);
  hub.writeToken = values["write-token"];
  for (const each of positionals) {
    const [name, folder] = each.split("=");
    const files = readdirSync(folder, { recursive: true, encoding: "utf8" })
      .map((path) => join(folder, path))
      .filter((path) => statSync(path).isFile())
      .map((path) => [relative(folder, path), readFileSync(path)]);
    hub.repositories.set(name, { files: new Map(files), commit: "0123456789abcdef0123456789abcdef01234567" });
  }
  console.log(hub.endpoint);
  process.stdin.resume().on("end", () => process.exit(0));
} finally {
  rmSync(built, { recursive: true, force: true });
}

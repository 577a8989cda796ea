// The farm on the embedded donor: operate, admit in two forms, serve, ask each organ through OpenAI's client, look, end.
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { hasLlamaLibrary } from "../dist/farm/engine/load-library.js";

const root = fileURLToPath(new URL("..", import.meta.url));
process.env.LLAMA_ENGINE ??= join(root, ".llama-engine");
if (!(await hasLlamaLibrary())) {
  console.log("skipped: node-llama-cpp is not installed; docs/farm.md says how");
  process.exit(0);
}
const { default: OpenAI } = await import("openai");
const main = join(root, "dist/cli/main.js");
const farm = "demo-output/farm";

function physarium(...args) {
  console.log(`\n$ physarium ${args.join(" ")}`);
  const { status, error } = spawnSync(process.execPath, [main, ...args], {
    cwd: root,
    stdio: ["ignore", "inherit", "inherit"],
  });
  if (error) throw error;
  if (status !== 0) process.exit(status ?? 1);
}

rmSync(join(root, farm), { recursive: true, force: true });
mkdirSync(join(root, farm), { recursive: true });
physarium("surgery", "examples/donors/loam", `${farm}/loam-operated`, "--quiet");
const write = (name, text) => writeFileSync(join(root, farm, name), text);
write("anchors.jsonl", `${JSON.stringify({ prompt: "Once upon a time", must: "little (girl|boy)" })}\n`);
write(
  "answer.schema.json",
  JSON.stringify({ type: "object", properties: { happy: { type: "boolean" } }, required: ["happy"] }),
);
write("tale.txt", "A tale: {{input}}");
physarium("farm", "init", farm, "--ram", "2GiB", "--tier-default", "RAM");
const body = ["--body", "loam", "--file", farm];
const source = ["--source", `${farm}/loam-operated`, "--forms", "q8_0,q4_0", "--sequences", "2"];
physarium("farm", "add", "story", ...body, ...source, "--max-tokens", "40", "--anchors", `${farm}/anchors.jsonl`);
physarium("farm", "add", "tale", ...body, "--max-tokens", "30", "--template", `${farm}/tale.txt`);
const schema = ["--verifier", "json_schema", "--schema", `${farm}/answer.schema.json`];
physarium("farm", "add", "mood", ...body, "--max-tokens", "40", ...schema);
physarium("farm", "check", "--file", farm);
physarium("farm", "admit", "loam", "--file", farm);
physarium("farm", "plan", "--file", farm);

console.log(`\n$ physarium farm serve --port 0 --file ${farm}`);
const server = spawn(process.execPath, [main, "farm", "serve", "--port", "0", "--file", farm], {
  cwd: root,
  stdio: ["ignore", "pipe", "inherit"],
});
const ended = new Promise((resolve) => server.once("exit", resolve));
try {
  const address = await new Promise((resolve, reject) => {
    server.stdout.setEncoding("utf8").once("data", (text) => resolve(text.trim()));
    server.once("exit", (code) => reject(new Error(`the server ended with ${code}`)));
  });
  console.log(address);
  const client = new OpenAI({ baseURL: `${address}/v1`, apiKey: "none" });
  for (const model of ["story", "tale", "mood"]) {
    const content = model === "mood" ? "Was she happy?" : "Once upon a time";
    const answer = await client.chat.completions.create({ model, messages: [{ role: "user", content }], seed: 1 });
    const { form, tier, ledger_sha256: ledger, verdict } = answer.physarium;
    const checked = verdict === null ? "nothing checks it" : `${verdict.verifier} passed`;
    console.log(`\n${model}: ${JSON.stringify(answer.choices[0].message.content)}`);
    console.log(`  ${form} in ${tier}, ledger ${ledger.slice(0, 12)}, ${checked}, ${answer.usage.total_tokens} tokens`);
  }
  physarium("farm", "ps", "--file", farm);
} finally {
  server.kill("SIGTERM");
  console.log(`\nthe farm ended with ${await ended}`);
}
if (!existsSync(join(root, farm, "farm-state/journal.jsonl"))) process.exit(1);

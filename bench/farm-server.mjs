// The same prompts at temperature 0 through node-llama-cpp and through llama.cpp's own server, behind the farm: by path
// (the farm starts it) and by address (it runs already).
//
//   node bench/farm-server.mjs --server <llama-server> [--model <folder>]… [--forms q8_0,q4_0] [--prompts 40] [--tokens 32]
//
// Without a binary of it, a script that takes its arguments and starts another build of it. Prints how many texts, token
// counts and ends are equal, and the loss that admission measured through each.
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { basename, join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { ChildBody } from "../dist/farm/engine/child-engine.js";

const { values } = parseArgs({
  options: {
    server: { type: "string" },
    model: { type: "string", multiple: true },
    forms: { type: "string", default: "q8_0,q4_0" },
    prompts: { type: "string", default: "40" },
    tokens: { type: "string", default: "32" },
  },
});
if (values.server === undefined)
  throw new Error("--server names a llama-server, or a program that takes its arguments");
const program = resolve(values.server);
const root = fileURLToPath(new URL("..", import.meta.url));
process.env.LLAMA_ENGINE ??= join(root, ".llama-engine");
const main = join(root, "dist/cli/main.js");
const folder = mkdtempSync(join(tmpdir(), "physarium-farm-server-"));
const outside = "--allow-absolute-paths";
const run = (...args) => {
  const { status, stdout, stderr } = spawnSync(process.execPath, [main, ...args], { encoding: "utf8" });
  if (status !== 0) throw new Error(`physarium ${args.join(" ")}: ${stderr}`);
  return stdout;
};

const WHO = ["The little girl", "A big dog", "Once upon a time", "Tom and Ann", "In the old house", "Zażółć 東京 🐝"];
const WHAT = ["went to the", "was very", "said:", "could not see", "played with"];
const prompts = Array.from({ length: Number(values.prompts) }, (_, at) => {
  const text =
    `${WHO[at % WHO.length]} ${WHAT[Math.floor(at / WHO.length) % WHAT.length]} ${at >= 30 ? at : ""}`.trim();
  return at % 2 === 0 ? { prompt: text } : { messages: [{ role: "user", content: text }] };
});
// Special tokens in a client's text are text, whatever the engine.
prompts.push({ messages: [{ role: "user", content: "a<|im_end|>\n<|im_start|>system\nb<|endoftext|>c</s>" }] });

async function texts(farm) {
  const server = spawn(process.execPath, [main, "farm", "serve", "--port", "0", "--file", farm, outside], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const ended = new Promise((done) => server.once("exit", done));
  try {
    const address = await new Promise((done, fail) => {
      server.stdout.setEncoding("utf8").once("data", (text) => done(text.trim()));
      server.once("exit", (code) => fail(new Error(`the server ended with ${code}`)));
    });
    const found = [];
    for (const prompt of prompts) {
      const response = await fetch(`${address}/v1/${"prompt" in prompt ? "" : "chat/"}completions`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ model: "body", temperature: 0, max_tokens: Number(values.tokens), ...prompt }),
      });
      const { choices, usage, error } = await response.json();
      if (error !== undefined) throw new Error(`${farm}: ${error.message}`);
      const [{ text, message, finish_reason: finish }] = choices;
      found.push({
        text: text ?? message.content,
        finish,
        read: usage.prompt_tokens,
        written: usage.completion_tokens,
      });
    }
    return found;
  } finally {
    server.kill("SIGTERM");
    await ended;
  }
}

const write = (name, source, form, engine) => {
  const farm = join(folder, name);
  mkdirSync(farm, { recursive: true });
  const body = { source, forms: [form], context: 128, sequences: 2, threads: 1 };
  const organs = [{ name: "organ", body: "body", tier: "RAM" }];
  const file = {
    version: 1,
    budget: { RAM: "4GiB" },
    ...(engine === undefined ? {} : { engine }),
    bodies: { body },
    organs,
  };
  writeFileSync(join(farm, "organ_farm.json"), JSON.stringify(file));
  return farm;
};
const admit = (farm) => JSON.parse(run("farm", "admit", "body", "--file", farm, "--json", "--quiet", outside)).forms[0];

/**
 * Where both engines write the likeliest tokens of their own: at the first that differ, how far apart the first engine
 * holds the two, as a difference of ln p. Near 0 it is a draw that the order of sums decides.
 */
async function partings(file, form) {
  const spec = { body: "body", file, form, context: 128, sequences: 1, threads: 1, gpuLayers: 0 };
  const bodies = [{ kind: "node-llama-cpp" }, { kind: "llama-server", path: program, args: [] }].map(
    (engine) => new ChildBody({ ...spec, engine }),
  );
  const gaps = [];
  try {
    for (const body of bodies) await body.load(async () => {});
    for (const each of prompts) {
      const prompt = "prompt" in each ? { text: each.prompt } : { turns: each.messages, chatml: false };
      const ids = await bodies[0].call({ what: "tokens", prompt });
      const [ours, theirs] = await Promise.all(
        bodies.map((body) => body.call({ what: "greedy", ids, count: Number(values.tokens) })),
      );
      const at = ours.ids.findIndex((id, place) => theirs.ids[place] !== undefined && theirs.ids[place] !== id);
      if (at < 0) continue;
      const all = [...ids, ...ours.ids.slice(0, at + 1)];
      const { values: row } = await bodies[0].call({ what: "distributions", ids: all, from: all.length - 1 });
      gaps.push(row[ours.ids[at]] - row[theirs.ids[at]]);
    }
  } finally {
    for (const body of bodies) await body.stop();
  }
  return gaps;
}

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await new Promise((done) => server.once("listening", done));
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  return port;
}

try {
  if (values.model === undefined) run("surgery", join(root, "examples/donors/loam"), join(folder, "loam"), "--quiet");
  for (const source of values.model?.map((each) => resolve(each)) ?? [join(folder, "loam")]) {
    for (const form of values.forms.split(",")) {
      const own = write(`own-${form}`, source, form);
      const byPath = write(`path-${form}`, source, form, { kind: "llama-server", path: program });
      const admitted = [admit(own), admit(byPath)];
      const expected = await texts(own);
      const results = { "by path": await texts(byPath) };
      const port = await freePort();
      const gguf = join(own, "farm-state/bodies/body/1", admitted[0].file);
      const words = { model: gguf, port, "ctx-size": 256, parallel: 2, threads: 1 };
      const server = spawn(
        program,
        Object.entries(words).flatMap(([name, value]) => [`--${name}`, `${value}`]),
        {
          stdio: ["ignore", "ignore", "ignore"],
        },
      );
      try {
        const address = `http://127.0.0.1:${port}`;
        while (!(await fetch(`${address}/health`).catch(() => undefined))?.ok) await sleep(100);
        results["by address"] = await texts(write(`address-${form}`, source, form, { kind: "llama-server", address }));
      } finally {
        server.kill("SIGKILL");
      }
      for (const [way, found] of Object.entries(results)) {
        const equal = (key) => found.filter((each, at) => each[key] === expected[at][key]).length;
        console.log(
          `${basename(source)} ${form} ${way}: of ${expected.length} prompts ${equal("text")} texts equal, ` +
            `${equal("read")} prompt token counts, ${equal("written")} answer token counts, ${equal("finish")} ends`,
        );
        const at = found.findIndex((each, place) => each.text !== expected[place].text);
        if (at >= 0) console.log(`  first other: ${JSON.stringify([prompts[at], expected[at], found[at]])}`);
      }
      const gaps = (await partings(gguf, form)).sort((a, b) => b - a);
      const far = gaps.length === 0 ? "" : `, at most ${gaps[0].toPrecision(2)} apart in ln p there`;
      console.log(`  the likeliest tokens part after ${gaps.length} prompts${far};`);
      const [ours, theirs] = admitted.map(({ loss }) => loss.kl_mean.toPrecision(4));
      const speeds = admitted[1].load.tokens_per_second.map(
        ({ threads, answer }) => `${threads}: ${answer.toFixed(0)}`,
      );
      console.log(`  KL from the donor: ${ours} through node-llama-cpp, ${theirs} through llama-server;`);
      console.log(
        `  llama-server: ${(admitted[1].load.peak_bytes / 2 ** 20).toFixed(1)} MiB, tokens/s by threads ${speeds.join(", ")}`,
      );
    }
  }
} finally {
  if (existsSync(folder)) rmSync(folder, { recursive: true, force: true });
}

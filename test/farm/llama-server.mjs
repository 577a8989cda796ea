#!/usr/bin/env node
// Speaks as llama.cpp's server does (xllamacpp 2026.10, recorded), without a model: it repeats the prompt's letters.
// llama-server.mjs --model <file> --port <n> …; what it was asked stands in <file>.asked, a line a request. With --hang
// <file> it never has its model, and its pid stands in that file.
import { appendFileSync, renameSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";

const words = process.argv.slice(2);
const option = (name) => words[words.indexOf(`--${name}`) + 1];
const SPECIAL = ["<s>", "</s>", ...(option("model").includes("chatml") ? ["<|im_start|>", "<|im_end|>"] : [])];
const LETTER = 100;
const tokenize = (content, special) => {
  const ids = [];
  for (let rest = content; rest !== ""; ) {
    const at = special ? SPECIAL.findIndex((each) => rest.startsWith(each)) : -1;
    const letter = String.fromCodePoint(rest.codePointAt(0));
    ids.push(at >= 0 ? at + 1 : LETTER + letter.codePointAt(0));
    rest = rest.slice(at >= 0 ? SPECIAL[at].length : letter.length);
  }
  return ids;
};
// The stand-in that a real server shows for a model without a template of its own.
const chat_template = "{%- for message in messages -%}{{- '<|im_start|>' + message.role -}}{%- endfor -%}";
const slot = Math.ceil(Number(option("ctx-size")) / Number(option("parallel")) / 256) * 256;

function complete({ prompt, ...asked }, response) {
  const given = typeof prompt === "string" ? tokenize(prompt, true) : prompt;
  const fail = (message, type) => {
    response.statusCode = 400;
    response.end(JSON.stringify({ error: { code: 400, message, type } }));
  };
  if (given.length > slot) return fail(`request (${given.length} tokens)`, "exceed_context_size_error");
  if (asked.json_schema?.type === "unknown") return fail("failed to parse grammar", "invalid_request_error");
  if (asked.n_probs > 0) {
    const top_logprobs = Array.from({ length: 130_000 }, (_, id) => ({ id, logprob: id === 0 ? -0.5 : -3.4e38 }));
    top_logprobs[1].logprob = null;
    return response.end(JSON.stringify({ content: "a", stop: true, completion_probabilities: [{ top_logprobs }] }));
  }
  const ids = given.filter((id) => id > LETTER).slice(0, asked.n_predict);
  const isLimit = ids.length === asked.n_predict;
  const text = String.fromCodePoint(...ids.map((id) => id - LETTER));
  const end = {
    content: "",
    stop: true,
    stop_type: isLimit ? "limit" : "eos",
    tokens_predicted: ids.length + !isLimit,
  };
  if (!asked.stream) return response.end(JSON.stringify({ ...end, content: text, tokens: ids }));
  response.setHeader("content-type", "text/event-stream");
  response.write(": a comment\n\n");
  for (const letter of text) response.write(`data: ${JSON.stringify({ content: letter, stop: false })}\n\n`);
  const error = { error: { code: 500, message: "Compute error.", type: "server_error" } };
  response.end(`data: ${JSON.stringify(text.includes("break") ? error : end)}\n\n`);
}

const isHanging = words.includes("--hang");
if (isHanging) {
  writeFileSync(`${option("hang")}.new`, String(process.pid));
  renameSync(`${option("hang")}.new`, option("hang"));
}

createServer((request, response) => {
  let text = "";
  request.setEncoding("utf8").on("data", (part) => {
    text += part;
  });
  request.on("end", () => {
    const asked = text === "" ? {} : JSON.parse(text);
    // As the real one: with a key in its environment everything but /health wants it.
    const key = process.env.LLAMA_API_KEY;
    if (key && request.url !== "/health" && request.headers.authorization !== `Bearer ${key}`) {
      const error = { code: 401, message: "Invalid API Key", type: "authentication_error" };
      response.writeHead(401).end(JSON.stringify({ error }));
      return;
    }
    if (isHanging) response.writeHead(503).end('{"error":{"code":503,"message":"Loading model"}}');
    else if (request.url === "/health") response.end('{"status":"ok"}');
    else if (request.url === "/props") {
      const bos = { bos_token: "<s>", eos_token: "</s>" };
      response.end(JSON.stringify({ chat_template, ...bos, default_generation_settings: { n_ctx: slot } }));
    } else if (request.url === "/tokenize") {
      const ids = tokenize(asked.content, asked.parse_special);
      response.end(JSON.stringify({ tokens: asked.add_special ? [1, ...ids] : ids }));
    } else {
      appendFileSync(`${option("model")}.asked`, `${text}\n`);
      complete(asked, response);
    }
  });
}).listen(Number(option("port")), "127.0.0.1");

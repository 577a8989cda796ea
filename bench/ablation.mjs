// What each constant and each part of the activation flow is worth: damage (ln perplexity − ln dense perplexity) with
// one thing changed at a time. Usage:
//   node bench/ablation.mjs <donor> --text FILE [--targets 0.5,2:4] [--seeds 1,2,3] [--samples 256] [--limit 512]
// [--window 128] [--only REGEXP]
// The text holds documents separated by <|endoftext|>; those of at least a window are cut to it, and split into scored
// and calibrating ones.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { activationFlow } from "../dist/methods/activation.js";
import { compareOnce, DAMAGE_FLAGS, meanAndSpread, seedsOf, targetsOf } from "./damage.mjs";
import { printMachine } from "./machine.mjs";

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: { ...DAMAGE_FLAGS, only: { type: "string" } },
});
const targets = targetsOf(flags.targets);
const { num_hidden_layers: layerCount } = JSON.parse(readFileSync(join(positionals[0], "config.json"), "utf8"));
const flow = (options) => ({ method: activationFlow(options) });
/** Another α for the projections whose names match. */
const alphaFor = (pattern, alpha) => {
  const [usual, other] = [activationFlow({}), activationFlow({ alpha })];
  return { method: { ...usual, prune: (task) => (pattern.test(task.name) ? other : usual).prune(task) } };
};
/** Sparsity that rises by so much from the first layer to the last, around what was asked for; layers are alike. */
const byDepth = (rise) => {
  const usual = activationFlow({});
  const targetOf = ({ name, target }) => {
    const place = Number(/layers\.(\d+)\./.exec(name)[1]) / (layerCount - 1) - 0.5;
    return target.kind === "sparsity" ? { ...target, sparsity: target.sparsity + rise * place } : target;
  };
  return {
    method: { ...usual, prune: (task) => usual.prune({ ...task, target: targetOf(task) }) },
    allocation: "uniform",
  };
};
const cases = [
  ["as it is", flow({})],
  ["α = 0, all projections of a layer at once", { method: { ...activationFlow({ alpha: 0 }), steps: "layer" } }],
  ["α = 0, in four steps", flow({ alpha: 0 })],
  ["α = 0.25", flow({ alpha: 0.25 })],
  ["α = 0.5", flow({ alpha: 0.5 })],
  ["α = 1", flow({ alpha: 1 })],
  ["α = 0 for q", alphaFor(/q_proj/, 0)],
  ["α = 0 for k", alphaFor(/k_proj/, 0)],
  ["α = 0 for v", alphaFor(/v_proj/, 0)],
  ["α = 0 for q, k and v", alphaFor(/[qkv]_proj/, 0)],
  ["α = 1 for v, o and down", alphaFor(/(?:v|o|down)_proj/, 1)],
  ["drift left alone", flow({ drift: 0 })],
  ["ρ = 0.1 of the mean energy", flow({ damping: 0.1 })],
  ["ρ = 0.001", flow({ damping: 0.001 })],
  ["tokens weighed alike", { ...flow({}), pipeline: { weighTokens: false } }],
  ["anchor 8 steps", flow({ anchorSteps: 8 })],
  ["anchor 15 steps", flow({ anchorSteps: 15 })],
  ["anchor 60 steps", flow({ anchorSteps: 60 })],
  ["β = 1.5", flow({ beta: 1.5 })],
  ["β = 1.8", flow({ beta: 1.8 })],
  ["β = 2.3", flow({ beta: 2.3 })],
  ["no flow: select by |y|", flow({ iterations: 0 })],
  ["8 iterations", flow({ iterations: 8 })],
  ["15 iterations", flow({ iterations: 15 })],
  ["60 iterations", flow({ iterations: 60 })],
  ["no sprouting", flow({ sproutRounds: 0 })],
  ["no sprouting, no flow: select by |y|", flow({ sproutRounds: 0, iterations: 0 })],
  ["5 rounds of sprouting", flow({ sproutRounds: 5 })],
  ["20 rounds of sprouting", flow({ sproutRounds: 20 })],
  ["last healing 0 steps", flow({ healSteps: 0 })],
  ["last healing 5 steps", flow({ healSteps: 5 })],
  ["last healing 40 steps", flow({ healSteps: 40 })],
  ["survivors keep their bits", flow({ heal: false })],
  ["survivors keep their bits, no sprouting", flow({ heal: false, sproutRounds: 0 })],
  ["calibration: an eighth", { ...flow({}), share: 1 / 8 }],
  ["calibration: a quarter", { ...flow({}), share: 1 / 4 }],
  ["calibration: half", { ...flow({}), share: 1 / 2 }],
  ["calibration: the donor's own text", { ...flow({}), calibration: null }],
  ["Gram in tiles of 64", { ...flow({ tileWidth: 64 }), pipeline: { gramOf: () => "tile" } }],
  ["Gram in tiles of 32", { ...flow({ tileWidth: 32 }), pipeline: { gramOf: () => "tile" } }],
  ["allocation owl", { ...flow({}), allocation: "owl" }],
  ["allocation emergent", { ...flow({}), allocation: "emergent" }],
  ["0.1 more from the first layer to the last", byDepth(0.1)],
  ["0.1 less from the first layer to the last", byDepth(-0.1)],
].filter(([name]) => new RegExp(flags.only ?? "").test(name));

printMachine();
console.log(`| changed | ${flags.targets.split(",").join(" | ")} |\n|---|${targets.map(() => "---:").join("|")}|`);
for (const [name, { method, pipeline, allocation, calibration, share = 1 }] of cases) {
  // A pattern leaves nothing to allocate.
  const asked = allocation === undefined ? targets : targets.filter(({ kind }) => kind === "sparsity");
  const damages = asked.map(() => []);
  for (const seed of seedsOf(flags)) {
    const { rows } = await compareOnce(positionals[0], flags, seed, {
      methods: [method],
      targets: asked,
      // The scored sequences follow `samples`, so a smaller calibration is a part of the same one and the score stays
      // comparable.
      calibrate: Math.round(Number(flags.samples) * share),
      ...(calibration === null ? { calibration: undefined } : {}),
      ...(pipeline === undefined ? {} : { pipeline }),
      ...(allocation === undefined ? {} : { allocation }),
    });
    rows.forEach(({ damage }, at) => {
      damages[at].push(damage);
    });
  }
  const cells = targets.map((target) => {
    const all = damages[asked.indexOf(target)];
    return all === undefined ? "–" : meanAndSpread(all);
  });
  console.log(`| ${name} | ${cells.join(" | ")} |`);
}

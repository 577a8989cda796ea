// What each constant and each part of the activation flow is worth: damage (ln perplexity − ln dense perplexity) with one thing changed at a
// time. Usage:
//   node bench/ablation.mjs <donor> --text FILE [--targets 0.5,2:4] [--seeds 1,2,3] [--samples 256] [--limit 512] [--window 128] [--only REGEXP]
// The text holds documents separated by <|endoftext|>; those of at least a window are cut to it, and split into scored and calibrating ones.
import { parseArgs } from "node:util";
import { activationFlow } from "../dist/calibration/activation.js";
import { compareMethods } from "../dist/calibration/compare/comparison.js";
import { parsePattern } from "../dist/calibration/stages/select.js";
import { printMachine } from "./machine.mjs";

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    text: { type: "string" },
    targets: { type: "string", default: "0.5,2:4" },
    seeds: { type: "string", default: "1,2,3" },
    samples: { type: "string", default: "256" },
    limit: { type: "string", default: "512" },
    window: { type: "string", default: "128" },
    threads: { type: "string", default: "1" },
    only: { type: "string" },
  },
});
const targets = flags.targets
  .split(",")
  .map((text) =>
    text.includes(":")
      ? { kind: "pattern", pattern: parsePattern(text) }
      : { kind: "sparsity", sparsity: Number(text) },
  );
const flow = (options) => ({ method: activationFlow(options) });
const cases = [
  ["as it is", flow({})],
  ["α = 0, all projections of a layer at once", { method: { ...activationFlow({ alpha: 0 }), steps: "layer" } }],
  ["α = 0, in four steps", flow({ alpha: 0 })],
  ["α = 0.25", flow({ alpha: 0.25 })],
  ["α = 0.5", flow({ alpha: 0.5 })],
  ["α = 1", flow({ alpha: 1 })],
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
  ["Gram in tiles of 256", { ...flow({}), pipeline: { gramOf: () => "tile" } }],
  ["allocation owl", { ...flow({}), allocation: "owl" }],
  ["allocation emergent", { ...flow({}), allocation: "emergent" }],
].filter(([name]) => new RegExp(flags.only ?? "").test(name));

printMachine();
const seeds = flags.seeds.split(",").map(Number);
console.log(`| changed | ${flags.targets.split(",").join(" | ")} |\n|---|${targets.map(() => "---:").join("|")}|`);
for (const [name, { method, pipeline, allocation, share = 1 }] of cases) {
  // A pattern leaves nothing to allocate.
  const asked = allocation === undefined ? targets : targets.filter(({ kind }) => kind === "sparsity");
  const damages = asked.map(() => []);
  for (const seed of seeds) {
    // The scored sequences follow `samples`, so a smaller calibration is a part of the same one and the score stays comparable.
    const samples = Number(flags.samples);
    const { rows } = await compareMethods(positionals[0], {
      text: flags.text,
      calibration: flags.text,
      methods: [method],
      targets: asked,
      protocol: { protocol: "documents", window: Number(flags.window), limit: Number(flags.limit) },
      minTokens: Number(flags.window),
      samples,
      calibrate: Math.round(samples * share),
      seed,
      threads: Number(flags.threads),
      ...(pipeline === undefined ? {} : { pipeline }),
      ...(allocation === undefined ? {} : { allocation }),
    });
    rows.forEach(({ damage }, at) => {
      damages[at].push(damage);
    });
  }
  const cells = targets.map((target) => {
    const all = damages[asked.indexOf(target)];
    if (all === undefined) return "–";
    const mean = all.reduce((sum, damage) => sum + damage, 0) / all.length;
    const spread = Math.sqrt(all.reduce((sum, damage) => sum + (damage - mean) ** 2, 0) / Math.max(1, all.length - 1));
    return `${mean.toFixed(4)} ± ${spread.toFixed(4)}`;
  });
  console.log(`| ${name} | ${cells.join(" | ")} |`);
}

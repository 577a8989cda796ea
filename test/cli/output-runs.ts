import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gaussianTensor, writeDonor } from "../donors.js";
import { LOAM } from "../shared.js";

/** A command whose answer is held against the schema; they run in order, on what those before them wrote. */
export interface OutputRun {
  /** As schemas/outputs.schema.json names it. */
  readonly command: string;
  readonly args: readonly string[];
  /** What the command ends with; 0 where nothing is said, "any" where the machine decides. */
  readonly exit?: number | "any";
  readonly needs?: "engine";
}

const STORIES = "examples/texts/loam-stories.txt";

/** Every command that can run without a farm at work, in the forms in which its answer differs. */
export function outputRuns(root: string, hub: { readonly org: string }): OutputRun[] {
  const at = (name: string) => join(root, name);
  const tensors = [
    gaussianTensor("model.layers.0.mlp.up_proj.weight", "BF16", [64, 48], 1),
    gaussianTensor("model.layers.1.mlp.up_proj.weight", "BF16", [64, 48], 2),
    gaussianTensor("model.norm.weight", "F32", [48], 3),
  ];
  const small = writeDonor(at("small"), [tensors.slice(0, 1), tensors.slice(1)], {
    "README.md": "# small\n",
    "config.json": "{}",
  });
  mkdirSync(join(small, "onnx"));
  writeFileSync(at("recipe.yaml"), `model: ${small}\noutput: ${at("by-recipe")}\nsurgery: {}\n`);
  const engine = { needs: "engine" } as const;
  const probe = ["--text", STORIES, "--window", "64", "--limit", "4"];
  const operated = at("operated");
  const farm = ["--file", at("farm/organ_farm.json"), "--allow-absolute-paths"];
  return [
    { command: "doctor", args: ["--folder", root] },
    { command: "plan", args: [small] },
    { command: "plan", args: [`hf://${hub.org}`] },
    {
      command: "plan",
      args: [LOAM, "--flow", "activation", "--target-sparsity", "0.5", "--calibration", STORIES],
      ...engine,
    },
    { command: "surgery", args: [small, at("small-operated")] },
    { command: "surgery", args: [small, at("small-operated"), "--resume"] },
    {
      command: "surgery",
      args: [LOAM, operated, "--target-sparsity", "0.3", "--include", "layers\\.0", "--eval", STORIES],
      ...engine,
    },
    {
      command: "surgery",
      args: [
        ...[LOAM, at("v2"), "--flow", "activation", "--target-sparsity", "0.5", "--calibration", STORIES],
        ...["--samples", "2", "--window", "32", "--threads", "1"],
      ],
      ...engine,
    },
    { command: "verify", args: [small, at("small-operated")] },
    { command: "verify", args: [at("small-operated")] },
    { command: "verify", args: [small, at("small-operated"), "--expect", "balanced"], exit: 4 },
    { command: "verify", args: [LOAM, at("v2")], ...engine },
    { command: "diff", args: [small, at("small-operated")] },
    { command: "sign", args: ["--generate-key", at("key.pem")] },
    { command: "sign", args: [at("small-operated"), "--key", at("key.pem")] },
    { command: "report", args: [at("small-operated")] },
    { command: "report", args: [at("small-operated"), "--format", "json"] },
    { command: "report", args: [at("small-operated"), at("small-operated")] },
    { command: "report", args: [at("v2")], ...engine },
    { command: "eval", args: [LOAM, ...probe], ...engine },
    { command: "eval", args: [operated, "--against", LOAM, ...probe, "--layers"], ...engine },
    { command: "gate", args: [operated, "--against", LOAM, ...probe, "--max-tokens", "8"], ...engine },
    {
      command: "gate",
      args: [operated, "--against", LOAM, ...probe, "--max-kl", "1e-9", "--max-tokens", "4"],
      exit: 4,
      ...engine,
    },
    { command: "report", args: [operated], ...engine },
    { command: "generate", args: [LOAM, "--prompt", "Once", "--max-tokens", "4"], ...engine },
    {
      command: "compare",
      args: [
        ...[LOAM, "--text", STORIES, "--calibration", STORIES, "--methods", "magnitude,wanda", "--sparsity", "0.5"],
        ...["--samples", "2", "--window", "32", "--limit", "2", "--out", at("comparison")],
      ],
      ...engine,
    },
    { command: "report", args: [operated, "--compare", at("comparison")], ...engine },
    {
      command: "calibrate",
      args: [LOAM, "--text", STORIES, "--samples", "2", "--window", "32", "--out", at("g.safetensors")],
      ...engine,
    },
    { command: "run", args: [at("recipe.yaml"), "--plan"] },
    { command: "run", args: [at("recipe.yaml")] },
    { command: "pack", args: [at("small-operated"), at("packed")] },
    { command: "unpack", args: [at("packed"), at("unpacked")] },
    { command: "export", args: [LOAM, at("loam.gguf"), "--type", "q8_0"] },
    { command: "export", args: [LOAM, at("sparse"), "--format", "compressed-tensors"] },
    { command: "import", args: [at("loam.gguf"), at("from-gguf")] },
    { command: "import", args: [at("sparse"), at("from-sparse")] },
    { command: "synth", args: [LOAM, at("synth"), "--seed", "7"] },
    { command: "fetch", args: [`hf://${hub.org}`] },
    { command: "push", args: [at("small-operated"), "me/small", "--dry-run"] },
    { command: "push", args: [at("small-operated"), "me/small"] },
    { command: "surgery", args: [`hf://${hub.org}`, at("pushed"), "--stream", "--push", "me/operated"] },
    { command: "parts prepare", args: [small, at("joined"), "--max-parts", "2"] },
    { command: "parts status", args: [at("joined")] },
    { command: "parts submit", args: [at("joined"), "--on", "slurm"] },
    { command: "parts run", args: [at("joined"), "--part", "0"] },
    { command: "parts run", args: [at("joined"), "--part", "0"] },
    { command: "parts run", args: [at("joined"), "--part", "1"] },
    { command: "parts status", args: [at("joined")] },
    { command: "parts finish", args: [at("joined")] },
    { command: "parts status", args: [at("joined")] },
    { command: "farm init", args: [at("farm")] },
    { command: "farm add", args: ["story", ...farm, "--body", "loam", "--source", LOAM] },
    { command: "farm check", args: [...farm] },
    { command: "farm plan", args: [...farm, "--ram", "4GiB"] },
    // No engine of llama.cpp is asked for here, and without one something is bad.
    { command: "farm doctor", args: [...farm], exit: "any" },
    { command: "farm ps", args: [...farm] },
    { command: "farm history", args: [...farm] },
    { command: "farm remove", args: ["story", ...farm] },
    {
      command: "operate",
      args: [LOAM, at("whole"), "--text", STORIES, "--sparsity", "0.3", "--flow", "magnitude", "--window", "64"],
      ...engine,
    },
  ];
}

/**
 * Answers that need a farm at work with an engine of llama.cpp, or a person at the keyboard: test/farm and test/probe
 * hold those.
 */
export const NOT_RUN = ["chat", "farm admit", "farm revert", "farm serve", "farm load", "farm unload", "farm pin"];

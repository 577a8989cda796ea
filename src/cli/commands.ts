import type { Command } from "commander";

type Register = (program: Command) => void;

/**
 * Every command by its name, loaded when it is asked for: one command needs few of the modules that all need. Where
 * it stands in the help says tree/option-groups.ts; one that is not named there comes last.
 */
export const COMMANDS: Readonly<Record<string, () => Promise<Register>>> = {
  operate: async () => (await import("./operate.js")).registerOperate,
  surgery: async () => (await import("./surgery.js")).registerSurgery,
  plan: async () => (await import("./plan.js")).registerPlan,
  verify: async () => (await import("./verify.js")).registerVerify,
  diff: async () => (await import("./diff.js")).registerDiff,
  sign: async () => (await import("./sign.js")).registerSign,
  report: async () => (await import("./report.js")).registerReport,
  eval: async () => (await import("./eval.js")).registerEval,
  gate: async () => (await import("./gate.js")).registerGate,
  generate: async () => (await import("./generate.js")).registerGenerate,
  chat: async () => (await import("./chat.js")).registerChat,
  compare: async () => (await import("./compare.js")).registerCompare,
  run: async () => (await import("./run.js")).registerRun,
  calibrate: async () => (await import("./calibrate.js")).registerCalibrate,
  pack: async () => (await import("./pack.js")).registerPack,
  unpack: async () => (await import("./unpack.js")).registerUnpack,
  export: async () => (await import("./export.js")).registerExport,
  import: async () => (await import("./import.js")).registerImport,
  synth: async () => (await import("./synth.js")).registerSynth,
  fetch: async () => (await import("./fetch.js")).registerFetch,
  parts: async () => (await import("./parts.js")).registerParts,
  farm: async () => (await import("./farm.js")).registerFarm,
  push: async () => (await import("./push.js")).registerPush,
  doctor: async () => (await import("./doctor.js")).registerDoctor,
  completion: async () => (await import("./completion.js")).registerCompletion,
  man: async () => (await import("./man.js")).registerMan,
};

/** Commands that speak of the whole tree; operate writes a recipe of the steps of others. */
const OF_ALL: readonly string[] = ["completion", "man", "operate", "run"];

/** The commands that have to be loaded for these arguments: the one that they name, or all. */
export function commandsFor(args: readonly string[]): readonly string[] {
  const [first = ""] = args;
  return Object.hasOwn(COMMANDS, first) && !OF_ALL.includes(first) ? [first] : Object.keys(COMMANDS);
}

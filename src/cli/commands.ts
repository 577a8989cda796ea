import type { Command } from "commander";
import { registerCalibrate } from "./calibrate.js";
import { registerCompare } from "./compare.js";
import { registerEval } from "./eval.js";
import { registerExport } from "./export.js";
import { registerFetch } from "./fetch.js";
import { registerGate } from "./gate.js";
import { registerGenerate } from "./generate.js";
import { registerImport } from "./import.js";
import { registerPack } from "./pack.js";
import { registerPlan } from "./plan.js";
import { registerReport } from "./report.js";
import { registerSign } from "./sign.js";
import { registerSurgery } from "./surgery.js";
import { registerSynth } from "./synth.js";
import { registerUnpack } from "./unpack.js";
import { registerVerify } from "./verify.js";

/** Every command, in the order of the help. */
export const COMMANDS: readonly ((program: Command) => void)[] = [
  registerSurgery,
  registerPlan,
  registerVerify,
  registerSign,
  registerReport,
  registerEval,
  registerGate,
  registerGenerate,
  registerCompare,
  registerCalibrate,
  registerPack,
  registerUnpack,
  registerExport,
  registerImport,
  registerSynth,
  registerFetch,
];

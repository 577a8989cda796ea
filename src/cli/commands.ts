import type { Command } from "commander";
import { registerCalibrate } from "./calibrate.js";
import { registerChat } from "./chat.js";
import { registerCompare } from "./compare.js";
import { registerCompletion } from "./completion.js";
import { registerDiff } from "./diff.js";
import { registerDoctor } from "./doctor.js";
import { registerEval } from "./eval.js";
import { registerExport } from "./export.js";
import { registerFarm } from "./farm.js";
import { registerFetch } from "./fetch.js";
import { registerGate } from "./gate.js";
import { registerGenerate } from "./generate.js";
import { registerImport } from "./import.js";
import { registerMan } from "./man.js";
import { registerOperate } from "./operate.js";
import { registerPack } from "./pack.js";
import { registerParts } from "./parts.js";
import { registerPlan } from "./plan.js";
import { registerPush } from "./push.js";
import { registerReport } from "./report.js";
import { registerRun } from "./run.js";
import { registerSign } from "./sign.js";
import { registerSurgery } from "./surgery.js";
import { registerSynth } from "./synth.js";
import { registerUnpack } from "./unpack.js";
import { registerVerify } from "./verify.js";

/** Every command. Where it stands in the help says tree/option-groups.ts; one that is not named there comes last. */
export const COMMANDS: readonly ((program: Command) => void)[] = [
  registerOperate,
  registerSurgery,
  registerPlan,
  registerVerify,
  registerDiff,
  registerSign,
  registerReport,
  registerEval,
  registerGate,
  registerGenerate,
  registerChat,
  registerCompare,
  registerRun,
  registerCalibrate,
  registerPack,
  registerUnpack,
  registerExport,
  registerImport,
  registerSynth,
  registerFetch,
  registerParts,
  registerFarm,
  registerPush,
  registerDoctor,
  registerCompletion,
  registerMan,
];

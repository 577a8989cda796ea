/**
 * The public API: open a donor, plan, operate, verify, render. The command line has no other powers.
 *
 * ```ts
 * const donor = await openDonor("./model");
 * const plan = planSurgery(donor, checkOptions({ flow: "magnitude" }));
 * const { report } = await operate(plan, { outputPath: "./operated", render: renderDocuments });
 * const { ok, differences } = await verify("./operated", { donorPath: "./model" });
 * ```
 */

export type { Check, Difference, Verification } from "./audit/verification.js";
export { type VerifyOptions, verify } from "./audit/verify.js";
export { type Donor, openDonor, type Shard, type SideFile } from "./checkpoint/donor.js";
export type { FileLayer } from "./checkpoint/file-layer.js";
export { type ComparisonOptions, compareMethods } from "./compare/comparison.js";
export { exitCodeOf, isPhysariumError, PhysariumError } from "./errors.js";
export { exportGguf } from "./export/gguf/export.js";
export { importGguf } from "./export/gguf/import.js";
export { exportSparse } from "./export/sparse/export.js";
export { importSparse } from "./export/sparse/import.js";
export { FLOWS, type FlowDefinition } from "./flow/flows.js";
export { DEFAULT_PARAMS, type FlowParams } from "./flow/params.js";
export { deadInMatrix } from "./flow/reference.js";
export type { ActivationOptions } from "./methods/activation.js";
export { packModel } from "./pack/pack-model.js";
export { unpackedView } from "./pack/packed-files.js";
export { openPacked } from "./pack/packed-model.js";
export { unpackModel } from "./pack/unpack-model.js";
export { estimateWorth } from "./pack/worth.js";
export { type FinishOptions, type FinishResult, finishParts } from "./parts/finish.js";
export { type PartResult, type RunPartOptions, runPart } from "./parts/part-run.js";
export { type Prepared, type PrepareOptions, prepareParts } from "./parts/prepare.js";
export { type PartStatus, type PartsStatus, partsStatus } from "./parts/status.js";
export { type EvaluateOptions, type Evaluation, evaluate } from "./probe/evaluate.js";
export { LayerRunner } from "./probe/forward/layer-runner.js";
export { type GateOptions, runGate } from "./probe/gate.js";
export { generateTokens } from "./probe/generate.js";
export { TextTokenizer } from "./probe/text/tokenizer.js";
export { readDocuments, readReport } from "./record/open-record.js";
export type { ReportInput } from "./record/report-input.js";
export { signOutput } from "./record/signature.js";
export type { SurgeryReport } from "./record/surgery-report.js";
export { addSections, renderCard, renderDocuments, writeDocuments } from "./report/documents.js";
export { renderHtml, renderMarkdown, renderSummary } from "./report/index.js";
export { parseHeader, readHeader, type SafetensorsHeader, type TensorInfo } from "./safetensors/header.js";
export { serializeHeader, type TensorSpec } from "./safetensors/writer.js";
export type { Progress, SurgeryEvent } from "./surgery/events.js";
export { type OperateOptions, type OperationResult, operate } from "./surgery/operation.js";
export { checkOptions, type SurgeryOptions } from "./surgery/options.js";
export { type Plan, type PlannedTensor, planSurgery } from "./surgery/plan.js";
export { type SynthResult, type SynthRunOptions, synthesize } from "./synth/synth.js";
export { PHYSARIUM_VERSION } from "./version.js";

import { spawn } from "node:child_process";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { type Command, Option } from "commander";
import { nodeFiles } from "../checkpoint/file-layer.js";
import { jsonLine, PhysariumError } from "../errors.js";
import { partsFolder } from "../parts/parts-folder.js";
import { checkVersion, type PartsPlan, readPartsPlan } from "../parts/parts-plan.js";
import { partsStatus, refuseJoined } from "../parts/status.js";
import { type JobOptions, jobName } from "../parts/submit/job.js";
import { kubernetesJob } from "../parts/submit/kubernetes.js";
import { DEFAULT_ARRAY_SIZE, slurmScript } from "../parts/submit/slurm.js";
import { toCount } from "./arguments.js";
import { endOnSignal } from "./stop-signal.js";

interface Flags {
  on: "slurm" | "kubernetes";
  cpus: number;
  mem: string;
  time: string;
  throttle?: number;
  missing?: boolean;
  yes?: boolean;
  command: string;
  partition?: string;
  account?: string;
  arraySize: number;
  image?: string;
  claim?: string;
  mount?: string;
  namespace?: string;
  finish?: boolean;
  json?: boolean;
}

/** `physarium parts submit <output>` */
export function registerSubmit(parts: Command): void {
  parts
    .command("submit")
    .description("print what hands the parts to a scheduler; --yes sends it to Slurm")
    .argument("<output>", "what parts prepare was given")
    .addOption(new Option("--on <scheduler>", "where").choices(["slurm", "kubernetes"]).makeOptionMandatory())
    .option("--cpus <n>", "processors of a part", toCount, 4)
    .option("--mem <size>", "memory of a part, as 2G", "2G")
    .option("--time <limit>", "time of a part, as 1:00:00", "1:00:00")
    .option("--throttle <n>", "at most so many parts at once", toCount)
    .option("--missing", "only the parts that are missing or failed")
    .option("--yes", "slurm: send it")
    .option("--command <words>", "how a node calls physarium", "physarium")
    .option("--partition <name>", "slurm: partition")
    .option("--account <name>", "slurm: account")
    .option("--array-size <n>", "slurm: indices of one array, at most MaxArraySize − 1", toCount, DEFAULT_ARRAY_SIZE)
    .option("--image <name>", "kubernetes: image that has physarium")
    .option("--claim <name>", "kubernetes: claim of the disk that holds donor and output (ReadWriteMany)")
    .option(
      "--mount <path>",
      "kubernetes: where the claim is mounted (default: the folder that donor and output share)",
    )
    .option("--namespace <name>", "kubernetes: namespace")
    .option("--finish", "kubernetes: the job that joins, to be applied when the parts are complete")
    .addHelpText(
      "after",
      `
Examples:
  physarium parts submit /disk/operated --on slurm --cpus 4 --mem 2G --time 1:00:00 --throttle 32 --yes
  physarium parts submit /disk/operated --on slurm --missing --yes
  physarium parts submit /disk/operated --on kubernetes --image my/physarium --claim models > job.yaml`,
    )
    .action(async (output: string, flags: Flags) => {
      endOnSignal("nothing was sent");
      const folder = await partsFolder(output);
      const plan = await readPartsPlan(folder, nodeFiles);
      if (plan === undefined) return refuseJoined(folder, nodeFiles);
      checkVersion(plan, folder);
      const job: JobOptions = {
        outputPath: folder.path,
        folder: folder.folder,
        parts: await chosenParts(output, plan, flags),
        partCount: plan.part_count,
        name: jobName(folder.path),
        cpus: flags.cpus,
        memory: flags.mem,
        time: flags.time,
        ...(flags.throttle === undefined ? {} : { throttle: flags.throttle }),
        command: flags.command,
      };
      const print = (script: string, jobs?: string): void => {
        const { on } = flags;
        const result = { event: "submit", on, parts: job.parts, script, ...(jobs === undefined ? {} : { jobs }) };
        process.stdout.write(flags.json ? jsonLine(result) : (jobs ?? script));
      };
      if (flags.on === "kubernetes") {
        print(await forKubernetes(job, plan, flags));
        return;
      }
      const { partition, account, arraySize } = flags;
      const script = slurmScript({
        ...job,
        arraySize,
        ...(partition === undefined ? {} : { partition: checkName("partition", partition) }),
        ...(account === undefined ? {} : { account: checkName("account", account) }),
      });
      // Slurm opens the logs before anything of the job runs.
      await mkdir(join(folder.folder, "logs"), { recursive: true });
      print(script, flags.yes ? await send(script) : undefined);
    });
}

/** All parts, or those that neither are done nor being worked on. */
async function chosenParts(output: string, plan: PartsPlan, { missing }: Flags): Promise<number[]> {
  if (!missing) return plan.parts.map(({ part }) => part);
  const { parts } = await partsStatus(output);
  return parts.filter(({ state }) => state === "missing" || state === "failed").map(({ part }) => part);
}

function forKubernetes(job: JobOptions, plan: PartsPlan, flags: Flags): Promise<string> {
  const { image, claim, mount, namespace, finish = false, yes } = flags;
  if (yes) {
    throw new PhysariumError(
      "USAGE_PARAM",
      "--yes sends to Slurm; for Kubernetes: … > job.yaml; kubectl apply -f job.yaml",
    );
  }
  if (image === undefined || claim === undefined) {
    throw new PhysariumError(
      "USAGE_PARAM",
      `--on kubernetes needs ${image === undefined ? "--image, which has physarium" : "--claim, the shared disk"}`,
    );
  }
  if (job.parts.length === 0 && !finish) {
    throw new PhysariumError("USAGE_PARTS", "no part is missing; --finish prints the job that joins them");
  }
  return kubernetesJob({
    ...job,
    image,
    claim,
    donorPath: plan.header.donor.path,
    finish,
    ...(mount === undefined ? {} : { mount }),
    ...(namespace === undefined ? {} : { namespace: checkName("namespace", namespace) }),
  });
}

function checkName(flag: string, name: string): string {
  if (/^[\w.,@+-]+$/.test(name)) return name;
  throw new PhysariumError("USAGE_PARAM", `--${flag} is "${name}", expected letters, digits and . , _ -`);
}

/** Run the script; what it prints are the numbers of the jobs. Throws `USAGE_SUBMIT`. */
function send(script: string): Promise<string> {
  const child = spawn("bash", ["-s"], { stdio: ["pipe", "pipe", "pipe"] });
  let stdout = "";
  let stderr = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  child.stdin.on("error", () => {});
  child.stdin.end(script);
  return new Promise((done, fail) => {
    const refuse = (why: string) =>
      fail(
        new PhysariumError(
          "USAGE_SUBMIT",
          `Slurm did not take the jobs: ${why.trim().replaceAll("\n", "; ")}; without --yes the script is printed`,
        ),
      );
    child.on("error", (error) => refuse(error.message));
    child.on("close", (status) => {
      process.stderr.write(status === 0 ? stderr : "");
      if (status === 0) done(stdout);
      else refuse(`${stdout}${stderr}` || `bash ended with ${status}`);
    });
  });
}

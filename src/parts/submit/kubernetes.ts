import { dirname } from "node:path";
import { PhysariumError } from "../../errors.js";
import { shellQuote } from "../../report/report-text.js";
import { checkMemory, type JobOptions, RETRIES, secondsOf, TRY_AGAIN } from "./job.js";

export interface KubernetesOptions extends JobOptions {
  readonly image: string;
  /** A claim that many nodes may write to (ReadWriteMany), on which donor and output lie. */
  readonly claim: string;
  /** Where it is mounted: the path that it had where the parts were prepared. */
  readonly mount?: string;
  readonly namespace?: string;
  readonly donorPath: string;
  /** The job that joins, instead of the parts. */
  readonly finish?: boolean;
}

/** Ended by a signal: the node ran out of memory or of time, not the part out of sense. */
const KILLED = [128 + 9, 128 + 15];

/**
 * An indexed Job: a pod an index, as many as there are parts. What is not worth another try fails its index at once,
 * what a node's end interrupted is not counted.
 * source: kubernetes.io, "Handling retriable and non-retriable pod failures with Pod failure policy"; batch/v1 Job
 */
export async function kubernetesJob(options: KubernetesOptions): Promise<string> {
  const { parts, throttle, name, finish = false } = options;
  const completions = finish ? 1 : parts.length;
  const rules = [
    { action: "Ignore", onPodConditions: [{ type: "DisruptionTarget", status: "True" }] },
    {
      action: finish ? "FailJob" : "FailIndex",
      onExitCodes: { containerName: "physarium", operator: "NotIn", values: [TRY_AGAIN, ...KILLED] },
    },
  ];
  const metadata = {
    name: `${name}-${finish ? "finish" : "parts"}`,
    ...(options.namespace === undefined ? {} : { namespace: options.namespace }),
    labels: { "app.kubernetes.io/name": "physarium" },
  };
  // Loaded where it is needed: no other command writes YAML of this kind.
  const { stringify } = await import("yaml");
  const job = {
    apiVersion: "batch/v1",
    kind: "Job",
    metadata,
    spec: {
      completions,
      parallelism: Math.min(completions, throttle ?? completions),
      ...(finish ? { backoffLimit: RETRIES } : { completionMode: "Indexed", backoffLimitPerIndex: RETRIES }),
      podFailurePolicy: { rules },
      template: { metadata: { labels: metadata.labels }, spec: podSpec(options, finish) },
    },
  };
  return stringify(job, { lineWidth: 0, aliasDuplicateObjects: false });
}

function podSpec(options: KubernetesOptions, finish: boolean) {
  const { image, claim, cpus, memory, time, outputPath, donorPath, command } = options;
  const { amount, unit } = checkMemory(memory);
  const mountPath = options.mount ?? sharedFolder(outputPath, donorPath);
  for (const path of [outputPath, donorPath]) {
    if (path === mountPath || path.startsWith(`${mountPath.replace(/\/$/, "")}/`)) continue;
    throw new PhysariumError(
      "USAGE_PARAM",
      `--mount is ${mountPath}, and ${path} does not lie in it; pods see what the claim holds, under the paths that ` +
        "the parts were prepared with",
    );
  }
  const resources = { cpu: String(cpus), memory: `${amount}${unit}i` };
  const call = finish ? `parts finish ${shellQuote(outputPath)}` : `parts run ${shellQuote(outputPath)} --part "$part"`;
  return {
    restartPolicy: "Never",
    activeDeadlineSeconds: secondsOf(time),
    terminationGracePeriodSeconds: 60,
    containers: [
      {
        name: "physarium",
        image,
        command: ["sh", "-c", `${finish ? "" : partOfIndex(options)}exec ${command} ${call} --workers ${cpus}`],
        resources: { requests: resources, limits: resources },
        volumeMounts: [{ name: "model", mountPath }],
      },
    ],
    volumes: [{ name: "model", persistentVolumeClaim: { claimName: claim } }],
  };
}

/** All parts are their own indices; of some, the index counts along a list. */
function partOfIndex({ parts, partCount }: JobOptions): string {
  if (parts.length === partCount) return 'part="$JOB_COMPLETION_INDEX"; ';
  return `set -- ${parts.join(" ")}; shift "$JOB_COMPLETION_INDEX"; part="$1"; `;
}

/** The deepest folder that both paths lie in; a claim is mounted there unless it is said otherwise. */
function sharedFolder(output: string, donor: string): string {
  let folder = dirname(output);
  while (folder !== "/" && donor !== folder && !donor.startsWith(`${folder}/`)) folder = dirname(folder);
  if (folder !== "/") return folder;
  throw new PhysariumError(
    "USAGE_PARAM",
    `${output} and ${donor} share no folder; say with --mount where the claim is mounted`,
  );
}

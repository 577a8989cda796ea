import { PhysariumError } from "../errors.js";

/** Where a model stands on the Hub. `hf://org/name@main/sub` names one. */
export interface HubAddress {
  readonly kind: "model" | "dataset";
  /** `org/name`, or `name` for the few repositories without an owner. */
  readonly repository: string;
  /** A branch, tag or commit; `main` where none is given. */
  readonly revision: string;
  /** A folder inside the repository, without slashes at its ends; empty for the whole. */
  readonly subfolder: string;
}

/**
 * A repository's parts as the Hub allows them: letters, digits, `-`, `_`, `.`, at most 96. source: the Hub's own rule
 * for names
 */
const PART = /^(?![-.])(?!.*(?:--|\.\.))[\w.-]{1,96}(?<![-.])$/;
const SCHEME = "hf://";

export function isHubAddress(text: string): boolean {
  return text.startsWith(SCHEME);
}

/** Parse `hf://[datasets/]org/name[@revision][/subfolder]`. Throws `USAGE_HUB_ADDRESS`. */
export function parseHubAddress(text: string): HubAddress {
  const wrong = (what: string): PhysariumError =>
    new PhysariumError(
      "USAGE_HUB_ADDRESS",
      `${text}: ${what}; expected hf://org/name, with @revision and /subfolder where wanted`,
      { address: text },
    );
  if (!isHubAddress(text)) throw wrong("this is no address of the Hub");
  let rest = text.slice(SCHEME.length);
  const kind = rest.startsWith("datasets/") ? "dataset" : "model";
  if (kind === "dataset") rest = rest.slice("datasets/".length);
  else if (rest.startsWith("models/")) rest = rest.slice("models/".length);
  const match = /^([^/@]+)\/([^/@]+)(?:@([^/]+))?(?:\/(.*))?$/s.exec(rest);
  if (match === null) throw wrong("an owner and a name are missing");
  const [, owner, name, revision = "main", sub = ""] = match;
  for (const part of [owner, name])
    if (!PART.test(part)) throw wrong(`"${part}" cannot be part of a repository's name`);
  // A revision of several parts, refs/pr/1, is written with %2F.
  let decoded: string;
  try {
    decoded = decodeURIComponent(revision);
  } catch {
    throw wrong(`"${revision}" is no revision`);
  }
  // It becomes a path under refs/.
  if (!isSafePath(decoded)) throw wrong(`"${revision}" is no revision`);
  const subfolder = sub.replace(/\/+$/, "");
  if (subfolder !== "" && !isSafePath(subfolder)) throw wrong(`"${subfolder}" cannot be a folder of a repository`);
  return { kind, repository: `${owner}/${name}`, revision: decoded, subfolder };
}

/** The address as a person would write it, with the commit where one is known. */
export function formatHubAddress({ kind, repository, revision, subfolder }: HubAddress): string {
  const at = revision === "main" ? "" : `@${encodeURIComponent(revision)}`;
  const inside = subfolder === "" ? "" : `/${subfolder}`;
  return `${SCHEME}${kind === "dataset" ? "datasets/" : ""}${repository}${at}${inside}`;
}

/** True for `org/name`: what people type where they mean the Hub. */
export function looksLikeRepository(text: string): boolean {
  const parts = text.split("/");
  return parts.length === 2 && parts.every((part) => PART.test(part));
}

/**
 * A path inside a repository is foreign data that becomes a path on this disk: no absolute ones, no steps upward, no
 * control characters.
 * Throws `HUB_PATH`.
 */
export function checkHubPath(path: string, where: string): void {
  if (isSafePath(path)) return;
  throw new PhysariumError(
    "HUB_PATH",
    `${where}: the path "${path}" leads out of the repository or cannot be a file's name; nothing of it is used`,
    { path },
  );
}

function isSafePath(path: string): boolean {
  const isName = (part: string) => part !== "" && part !== "." && part !== ".." && !/[\p{Cc}\\:]/u.test(part);
  return path.length <= 1024 && path.split("/").every(isName);
}

// The pages in a reader's order: the sidebar of the site. Every file of docs/ stands here once (test/docs/site.test.ts).
export const CHAPTERS = [
  {
    text: "Begin",
    pages: [
      ["README.md", "Overview"],
      ["docs/first-hour.md", "The first hour"],
      ["docs/choosing.md", "Choosing flow and sparsity"],
      ["docs/faq.md", "How long, and what is in the way"],
    ],
  },
  {
    text: "Understand",
    pages: [
      ["docs/figures.md", "What each figure means"],
      ["docs/verdict.md", "The verdict"],
      ["docs/report.md", "The report"],
      ["docs/eval.md", "What did it cost?"],
      ["docs/results.md", "What it reaches"],
    ],
  },
  {
    text: "Use the result",
    pages: [
      ["docs/running.md", "Running it elsewhere"],
      ["docs/export.md", "Export and import"],
      ["docs/pack.md", "The lossless pack"],
      ["docs/farm.md", "The organ farm"],
      ["docs/hub.md", "The Hub"],
    ],
  },
  {
    text: "Inside",
    pages: [
      ["docs/flows.md", "The flows"],
      ["docs/compare.md", "Comparing methods"],
      ["docs/models.md", "Models"],
      ["docs/ARCHITECTURE.md", "Architecture"],
    ],
  },
  {
    text: "Trust",
    pages: [
      ["docs/verify.md", "verify"],
      ["docs/reliability.md", "What can go wrong"],
      ["docs/performance.md", "Performance"],
      ["SECURITY.md", "Security"],
    ],
  },
  {
    text: "Further",
    pages: [
      ["docs/scale.md", "Many machines"],
      ["docs/synth.md", "A random donor"],
      ["docs/json.md", "What programs read"],
      ["docs/errors.md", "Error codes"],
      ["CHANGELOG.md", "Changelog"],
    ],
  },
];

/** Where a page of the repository lies in the site: `docs/pack.md` → `pack.md`, `README.md` → `index.md`. */
export function placeOf(path) {
  return path === "README.md" ? "index.md" : path.replace(/^docs\//, "").toLowerCase();
}

/** A heading's anchor as the repository's viewers make it, so that one link serves both. */
export function anchorOf(heading) {
  return heading
    .toLowerCase()
    .replace(/[^\p{L}\p{N} _-]/gu, "")
    .replaceAll(" ", "-");
}

import { escapeHtml } from "./escape-html.js";
import { SORT_SCRIPT, SORT_SCRIPT_HASH } from "./sortable.js";
import { STYLE } from "./style.js";

/** A page of its own in the report's clothes: one file, nothing from a network, and no script but ours. */
export function pageHtml({ title, kicker, body }: { title: string; kicker: string; body: string }): string {
  return `<!doctype html>
<html lang="en">
<head>
${headHtml(`${title} · Physarium`)}
</head>
<body>
<header class="masthead"><p class="kicker"><b>Physarium</b> <span>${escapeHtml(kicker)}</span></p>
<h1>${escapeHtml(title)}</h1></header>
<div class="page one"><main id="main" tabindex="-1">
${body}
</main></div>
<script>${SORT_SCRIPT}</script>
</body>
</html>
`;
}

/** What stands in the head of every page. */
export function headHtml(title: string): string {
  const policy = `default-src 'none'; style-src 'unsafe-inline'; script-src ${SORT_SCRIPT_HASH}`;
  return `<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="referrer" content="no-referrer">
<title>${escapeHtml(title)}</title>
<style>${STYLE}</style>`;
}

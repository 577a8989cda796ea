export { renderHtml } from "./html.js";
export { renderCarriedLogLine, renderLogLine } from "./log-line.js";
export { renderMarkdown } from "./markdown.js";
export { type Remarks, remarksOf } from "./remarks.js";
export { renderSummary } from "./summary.js";

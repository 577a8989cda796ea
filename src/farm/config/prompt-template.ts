/**
 * An organ's prompt template: plain text with names in double braces. It is no program: nothing in it can loop, reach a
 * file or see what was put in for another name.
 */
export const TEMPLATE_NAMES = ["input", "preamble", "schema", "organ", "body"] as const;
export type TemplateName = (typeof TEMPLATE_NAMES)[number];

const SLOT = /\{\{\s*([^{}]*?)\s*\}\}/g;

/** What is wrong with a template's text, by line. */
export function templateFaults(text: string): { line: number; message: string }[] {
  const faults: { line: number; message: string }[] = [];
  let hasInput = false;
  for (const match of text.matchAll(SLOT)) {
    if (match[1] === "input") hasInput = true;
    if ((TEMPLATE_NAMES as readonly string[]).includes(match[1])) continue;
    const line = text.slice(0, match.index).split("\n").length;
    faults.push({ line, message: `{{${match[1]}}} is no name of a template; known are ${TEMPLATE_NAMES.join(", ")}` });
  }
  if (!hasInput) faults.push({ line: 1, message: "{{input}} does not stand in it, so what is asked would be lost" });
  return faults;
}

/** Put values in; a value's own braces stay as they are. */
export function fillTemplate(text: string, values: Readonly<Record<TemplateName, string>>): string {
  return text.replace(SLOT, (whole, name: string) => values[name as TemplateName] ?? whole);
}

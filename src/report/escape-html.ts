/**
 * Text as HTML content or attribute value. What comes in was made printable before: no control characters, no overrides
 * of direction.
 */
export function escapeHtml(text: string): string {
  return text.replace(/[&<>"'`]/g, (character) => `&#${character.charCodeAt(0)};`);
}

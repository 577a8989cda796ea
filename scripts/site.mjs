// The documentation as a site: docs/*.md as they are, in a reader's order, and the API's reference from its docstrings.
//
//   npm run site            site-output/html, for any server of static files; SITE_BASE=/path/ where it lies below one
//   npx vitepress preview site
//
// Fails where a link or an anchor leads nowhere. Nothing is fetched.
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, normalize, posix } from "node:path";
import { fileURLToPath } from "node:url";
import { Application } from "typedoc";
import { build } from "vitepress";
import { CHAPTERS, placeOf } from "../site/chapters.mjs";

const ROOT = fileURLToPath(new URL("../", import.meta.url));
const OUTPUT = join(ROOT, "site-output");
const PAGES = join(OUTPUT, "pages");
const HTML = join(OUTPUT, "html");
process.chdir(ROOT);
rmSync(OUTPUT, { recursive: true, force: true });
mkdirSync(PAGES, { recursive: true });

const paths = CHAPTERS.flatMap(({ pages }) => pages.map(([path]) => path));
const places = new Map(paths.map((path) => [path, placeOf(path)]));

/** Every link of a page as it is in the site; the picture for light and dark follows the site's switch, not the system's. */
function inSite(path, text) {
  const target = (link) => {
    if (/^(?:[a-z]+:|#)/.test(link)) return link;
    const [file, anchor] = link.split("#");
    const found = posix.normalize(posix.join(posix.dirname(path), file));
    const place = found.startsWith("docs/pictures/") ? found.slice("docs/".length) : places.get(found);
    if (place === undefined) throw new Error(`${path}: the link ${link} leads to nothing in the site`);
    return `./${place}${anchor === undefined ? "" : `#${anchor}`}`;
  };
  const picture = /<picture>\s*<source [^>]*srcset="([^"]+)">\s*<img src="([^"]+)" alt="([^"]+)">\s*<\/picture>/g;
  return text
    .split(/(^```[\s\S]*?^```$)/m)
    .map((part, at) =>
      at % 2 === 1
        ? part
        : part
            .replace(picture, (_, dark, light, alt) =>
              [`<img class="for-light" src="${target(light)}"`, `<img class="for-dark" src="${target(dark)}"`]
                .map((each) => `${each} alt="${alt}">`)
                .join("\n"),
            )
            .replace(/\]\(([^)\s]+)\)/g, (_, link) => `](${target(link)})`),
    )
    .join("");
}

for (const path of paths) writeFileSync(join(PAGES, places.get(path)), inSite(path, readFileSync(path, "utf8")));
cpSync("docs/pictures", join(PAGES, "pictures"), { recursive: true });

const app = await Application.bootstrapWithPlugins({
  plugin: ["typedoc-plugin-markdown"],
  name: "API reference",
  entryPoints: ["src/index.ts"],
  tsconfig: "tsconfig.build.json",
  readme: "none",
  disableSources: true,
  excludeExternals: true,
  logLevel: "Error",
  entryFileName: "index.md",
  sanitizeComments: true,
  hidePageHeader: true,
  hideBreadcrumbs: true,
  parametersFormat: "table",
  navigationJson: join(OUTPUT, "api.json"),
});
const project = await app.convert();
if (project === undefined) throw new Error("typedoc made nothing of src/index.ts");
app.options.setValue("out", join(PAGES, "api"));
await app.generateOutputs(project);
if (app.logger.hasErrors()) throw new Error("typedoc found errors in src/index.ts");

await build(join(ROOT, "site"));
checkAnchors();

/** VitePress sees links to pages that are not there; this sees anchors that are not. */
function checkAnchors() {
  const files = readdirSync(HTML, { recursive: true, encoding: "utf8" }).filter((path) => path.endsWith(".html"));
  const texts = new Map(files.map((path) => [path, readFileSync(join(HTML, path), "utf8")]));
  const base = process.env.SITE_BASE ?? "/";
  const broken = [];
  let count = 0;
  for (const [path, text] of texts) {
    const main = /<main[\s\S]*<\/main>/.exec(text)?.[0] ?? "";
    for (const [, href] of main.matchAll(/<a [^>]*href="([^"]*#[^"]*)"/g)) {
      if (/^[a-z]+:/.test(href)) continue;
      count++;
      const [page, anchor] = decodeURIComponent(href).split("#");
      let file = path;
      if (page.startsWith(base)) file = page.slice(base.length) || "index.html";
      else if (page !== "") file = normalize(join(dirname(path), page));
      if (file.endsWith("/")) file += "index.html";
      if (!file.endsWith(".html")) file += ".html";
      if (!texts.get(file)?.includes(`id="${anchor}"`)) broken.push(`${path}: ${href}`);
    }
  }
  if (count < 100) throw new Error(`only ${count} anchors were found to check`);
  if (broken.length > 0) throw new Error(`anchors that lead nowhere:\n${broken.join("\n")}`);
  console.log(`site-output/html: ${files.length} pages, ${count} anchors, all of them lead somewhere`);
}

import { readFileSync } from "node:fs";
import { defineConfig } from "vitepress";
import { anchorOf, CHAPTERS, placeOf } from "../chapters.mjs";

// `npm run site` (scripts/site.mjs) lays out the pages first; nothing here fetches anything.
const OUTPUT = new URL("../../site-output/", import.meta.url);
const api = JSON.parse(readFileSync(new URL("api.json", OUTPUT), "utf8"));
const link = (path) => `/${placeOf(path).replace(/(index)?\.md$/, "")}`;

const sidebar = CHAPTERS.map(({ text, pages }) => ({
  text,
  items: pages.map(([path, title]) => ({ text: title, link: link(path) })),
}));

export default defineConfig({
  lang: "en",
  title: "Physarium",
  description: "Surgery for open-weight language models: what starves, what is proven, what it cost.",
  base: process.env.SITE_BASE ?? "/",
  srcDir: "../site-output/pages",
  outDir: "../site-output/html",
  cacheDir: "../site-output/cache",
  head: [["link", { rel: "icon", href: "data:," }]],
  markdown: { anchor: { slugify: anchorOf } },
  vite: { build: { chunkSizeWarningLimit: 2000 } },
  themeConfig: {
    outline: [2, 3],
    search: { provider: "local" },
    nav: [
      { text: "First hour", link: link("docs/first-hour.md") },
      { text: "Choosing", link: link("docs/choosing.md") },
      { text: "Figures", link: link("docs/figures.md") },
      { text: "Running", link: link("docs/running.md") },
      { text: "API", link: "/api/" },
    ],
    sidebar: {
      "/api/": [
        { text: "Guide", items: [{ text: "Overview", link: "/" }] },
        {
          text: "API reference",
          link: "/api/",
          items: api.map(({ title, children }) => ({
            text: title,
            collapsed: true,
            items: children.map(({ title: name, path }) => ({ text: name, link: `/api/${path.replace(/\.md$/, "")}` })),
          })),
        },
      ],
      "/": [...sidebar, { text: "As a library", items: [{ text: "API reference", link: "/api/" }] }],
    },
    footer: { message: "Apache-2.0" },
  },
});

import { rampVariables } from "./pictures/ramp.js";

const LIGHT = `
--paper:#fbf9f3;--sheet:#ffffff;--ink:#22251f;--soft:#676a5e;--rule:#e3dfd2;--band:#f3efe2;
--accent:#7d5700;--yellow:#e9b60f;--killed:#d19a00;--killed-text:#7d5700;--alive:#6f8f7b;--alive-text:#3f6350;
  --carried:#d9d5c7;
--good:#35614a;--warn:#8a4b00;--bad:#a1281c;`;

const DARK = `
--paper:#14160f;--sheet:#1a1d15;--ink:#e9e6da;--soft:#a5a695;--rule:#33372b;--band:#1d2018;
--accent:#ecc652;--yellow:#f0c22c;--killed:#e6b422;--killed-text:#f0cb60;--alive:#5f8570;--alive-text:#9cc4ad;
  --carried:#3c4034;
--good:#9cc9ae;--warn:#f0c070;--bad:#f29a8c;`;

/** The style sheet of report.html: light and dark by the reader's system, print always light, system fonts only. */
export const STYLE = `
:root{${LIGHT}${rampVariables("light")};
--serif:"Iowan Old Style","Palatino Linotype",Palatino,"URW Palladio L","Source Serif 4",Cambria,"Liberation Serif",
  Georgia,serif;
--sans:"Avenir Next",Avenir,"Segoe UI","Helvetica Neue","Source Sans 3","Liberation Sans",Arial,sans-serif;
--mono:"SF Mono",Menlo,Consolas,"Cascadia Mono","Liberation Mono","DejaVu Sans Mono",monospace;
color-scheme:light dark}
@media screen and (prefers-color-scheme:dark){:root{${DARK}${rampVariables("dark")}}}
*{box-sizing:border-box}
html{scroll-behavior:smooth;-webkit-text-size-adjust:100%}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
body{margin:0;background:var(--paper);color:var(--ink);font:1.0625rem/1.6 var(--serif);
  font-variant-numeric:lining-nums;text-rendering:optimizeLegibility}
p{margin:0 0 1em;max-width:68ch;text-wrap:pretty}
a{color:var(--accent);text-decoration-thickness:1px;text-underline-offset:.18em}
:focus-visible{outline:2px solid var(--accent);outline-offset:3px;border-radius:2px}
main:focus{outline:none}
code,pre{font-family:var(--mono);font-size:.84em;font-variant-ligatures:none}
code{overflow-wrap:anywhere}
code.command{background:var(--band);border:1px solid var(--rule);border-radius:4px;padding:.12em .42em;
  -webkit-box-decoration-break:clone;box-decoration-break:clone}
pre{margin:0;line-height:1.65;white-space:pre}
.skip{position:absolute;left:-999rem;background:var(--ink);color:var(--paper);padding:.6rem 1rem;
  font-family:var(--sans);z-index:2}
.skip:focus{left:1rem;top:1rem}
.masthead,.page,footer{max-width:76rem;margin-inline:auto;padding-inline:clamp(1.1rem,4vw,3rem)}
.masthead{padding-top:clamp(2rem,5vw,4rem)}
.kicker{font:600 .8rem/1 var(--sans);letter-spacing:.14em;text-transform:uppercase;color:var(--soft);
  margin-bottom:1.6rem}
.kicker b{color:var(--accent)}
h1{font-size:clamp(2rem,1.2rem + 3.6vw,3.6rem);line-height:1.08;font-weight:500;letter-spacing:-.015em;
  margin:0 0 .5em;overflow-wrap:anywhere;text-wrap:balance}
.lede{font-size:clamp(1.15rem,1rem + .7vw,1.5rem);line-height:1.45;max-width:46ch;margin-bottom:1.6em}
.lede strong{font-weight:600;color:var(--killed-text);white-space:nowrap}
.hero{margin:0 0 2.2rem}
.veins{display:block;width:100%;height:clamp(84px,14vw,176px);fill:var(--yellow)}.veins .pale{opacity:.4}
figcaption{font:.86rem/1.5 var(--sans);color:var(--soft);max-width:78ch;margin-top:.6rem}
figcaption code{font-size:.94em}
.denominators{margin:0 0 2.2rem}.denominators figcaption{max-width:none}
.denominators .bar{display:flex;height:1.15rem;gap:2px;border-radius:3px;overflow:hidden}
.denominators .bar i{min-width:2px;flex-basis:0}
.killed{background:var(--killed)}.alive{background:var(--alive)}.was-zero{background:var(--soft)}
  .carried{background:var(--carried)}
.denominators ul{list-style:none;margin:0;padding:0;display:flex;flex-wrap:wrap;gap:.25rem 1.8rem}
.denominators li{color:var(--ink)}.denominators .of{color:var(--soft)}
.bar,.ramp,.key,.veins,.plot,.tiles{forced-color-adjust:none}
.key{display:inline-block;width:.72em;height:.72em;border-radius:2px;margin-right:.5em}
.keys{display:grid;grid-template-columns:repeat(auto-fit,minmax(10.5rem,1fr));gap:1.4rem 2rem;margin:0;
  padding:1.5rem 0 1.7rem;border-block:1px solid var(--rule)}
.keys dt{font:.82rem/1.3 var(--sans);color:var(--soft);margin-bottom:.35rem}
.keys dd{margin:0;font-size:1.55rem;line-height:1.2;letter-spacing:-.01em}
.keys small{display:block;font:.82rem/1.45 var(--sans);letter-spacing:0;color:var(--soft);margin-top:.3rem}
.page{display:grid;grid-template-columns:minmax(0,1fr);gap:0 3.5rem;padding-top:1.5rem}
.contents{font:.9rem/1.4 var(--sans);margin:1rem 0}
.contents p{font-weight:600;margin-bottom:.5rem;color:var(--soft)}
.contents ol{list-style:none;margin:0;padding:0;columns:2 12rem;column-gap:2rem}
.contents a{display:block;padding:.28rem 0;color:var(--ink);text-decoration:none}
.contents a:hover{color:var(--accent);text-decoration:underline}
@media (min-width:64rem){
.page{grid-template-columns:11.5rem minmax(0,1fr)}
.contents{position:sticky;top:1.5rem;align-self:start;margin-top:3.4rem;max-height:calc(100vh - 3rem);overflow-y:auto}
.contents ol{columns:1}}
main{min-width:0}
section{padding-top:2.4rem;margin-bottom:2rem;scroll-margin-top:.5rem}
section+section{border-top:1px solid var(--rule)}
h2{font-size:1.75rem;line-height:1.2;font-weight:500;letter-spacing:-.01em;margin:0 0 1rem;text-wrap:balance}
h2 a{color:inherit;text-decoration:none}h2 a:hover{text-decoration:underline;text-decoration-thickness:1px}
h3{font:600 1rem/1.35 var(--sans);margin:0 0 .9rem}
.picture{margin:2.2rem 0 1.6rem}
.scroll{overflow-x:auto;overscroll-behavior-x:contain}
.scroll:focus-visible{outline-offset:6px}
.tall{max-height:34rem;overflow-y:auto}
.plot{display:block;width:100%;height:auto;font-family:var(--sans);fill:var(--ink)}
.plot .axis{fill:var(--soft)}
.legend{display:flex;flex-wrap:wrap;align-items:center;gap:.2rem .7rem;font:.82rem/1.4 var(--sans);color:var(--soft);
  margin:.7rem 0 0}
.ramp{display:inline-flex;width:9rem;height:.7rem;border-radius:2px;overflow:hidden}.ramp i{flex:1}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(9.8rem,100%),1fr));gap:1.4rem 1rem}
@media (min-width:48rem){.panels{grid-template-columns:repeat(4,1fr)}}
.panel .plot{max-width:17rem!important}
.panel-title{font:600 .88rem/1.3 var(--sans);margin:0 0 .3rem}
.tile-maps{display:flex;flex-wrap:wrap;gap:2rem 3.5rem;align-items:flex-start}
.tile-map{max-width:100%}
.tile-name{font-size:.95rem;margin:0 0 .7rem}.tile-size{font:.82rem/1.5 var(--sans);color:var(--soft);margin:.7rem 0 0}
.tiles text{font-family:var(--sans)}
.tiles{display:block;max-width:100%;height:auto;border-radius:3px}
table{border-collapse:collapse;font:.9rem/1.45 var(--sans);font-variant-numeric:tabular-nums lining-nums;
  margin:0 0 .4rem;min-width:min(100%,26rem)}
.scroll:has(pre){margin:1.3rem 0 1.5rem}.scroll:has(table){margin:1.2rem 0 1.5rem}
caption{text-align:left;font-weight:600;padding:0 0 .6rem}
.hidden{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
th,td{text-align:left;vertical-align:top;padding:.42rem 1.5rem .42rem 0;border-bottom:1px solid var(--rule);
  font-weight:400}
thead th{font-weight:600;color:var(--soft);vertical-align:bottom;border-bottom-color:var(--soft)}
.sortable th button{all:unset;cursor:pointer;font:inherit}
.sortable th button:focus-visible{outline:2px solid currentColor}
.sortable th[aria-sort=ascending] button::after{content:" ▲"}
.sortable th[aria-sort=descending] button::after{content:" ▼"}
.filter{font:inherit;color:inherit;background:transparent;border:1px solid currentColor;border-radius:.2rem}
.filter{padding:.2rem .5rem;max-width:100%}
.tall thead th{position:sticky;top:0;background:var(--paper)}
tbody tr:hover{background:var(--band)}
tbody th code{white-space:nowrap}
.n{text-align:right;white-space:nowrap}
.n:first-child{padding-left:.2rem}
td:last-child,th:last-child{padding-right:.4rem}
.pass,.fail,.nb{white-space:nowrap}.pass{color:var(--good);font-weight:600}.pass::before{content:"✓ "}
.fail{color:var(--bad);font-weight:600}.fail::before{content:"✗ "}
.note{font:.86rem/1.5 var(--sans);color:var(--soft)}
details{margin:.8rem 0;border-top:1px solid var(--rule)}
details+details{margin-top:-.8rem}
summary{font:600 .92rem/1.4 var(--sans);padding:.65rem .1rem;cursor:pointer;color:var(--accent)}
summary:hover{text-decoration:underline;text-underline-offset:.2em}
ul.remarks{padding-left:1.1em;margin:0 0 1.2em;max-width:68ch}.remarks li{margin-bottom:.55em}
.remarks li::marker{color:var(--killed)}
ul.marks{list-style:none;padding:0;margin:0;max-width:74ch}
.marks li{display:grid;grid-template-columns:4.2rem 1fr;gap:.2rem 1rem;padding:.75rem 0;
  border-bottom:1px solid var(--rule)}
.marks li:last-child{border-bottom:0}
.mark{font:600 .82rem/1.95 var(--sans)}
.good .mark{color:var(--good)}.good .mark::before{content:"✓ "}
.warning .mark{color:var(--warn)}.warning .mark::before{content:"! "}
section pre{background:var(--band);border-left:3px solid var(--yellow);padding:1rem 1.2rem;width:max-content;
  min-width:100%}
footer{padding-block:2.5rem 3.5rem;margin-top:2.5rem}
footer p{border-top:1px solid var(--rule);padding-top:1.3rem;font:.86rem/1.55 var(--sans);color:var(--soft);
  max-width:none}
@media (max-width:34rem){.marks li{grid-template-columns:1fr}.keys{gap:1.2rem}.keys dd{font-size:1.35rem}
  th,td{padding-right:1rem}}
@media print{
.filter{display:none}
@page{margin:16mm 15mm}
:root{--paper:#fff;--band:#f6f4ec}
body{font-size:10pt;line-height:1.45;print-color-adjust:exact;-webkit-print-color-adjust:exact}
.skip,.contents{display:none}
.masthead,.page,footer{max-width:none;padding-inline:0}.masthead{padding-top:0}
.page{display:block}
h1{font-size:26pt}h2{font-size:15pt}.lede{font-size:13pt}
section{padding-top:12pt;margin-bottom:6pt}
h2,h3,summary,caption,.panel-title{break-after:avoid}
figure,.panel,.tile-map,tr,.keys div,.marks li{break-inside:avoid}
.scroll,.tall{overflow:visible;max-height:none}
.plot{min-width:0!important}
table{font-size:8.2pt;min-width:0}th,td{padding:2.2pt 8pt 2.2pt 0}
.n{white-space:normal}
pre{white-space:pre-wrap!important;font-size:8pt}
section pre{width:auto}
.tall thead th{position:static}
a{color:inherit;text-decoration:none}
details{border:0}summary{list-style:none;color:var(--ink)}
details::details-content{content-visibility:visible;display:block;height:auto}
details.in-tensors,details.behind-picture{display:none}
.panels{grid-template-columns:repeat(4,1fr)}}
`;

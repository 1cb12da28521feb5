"""The style of the ceremony report: readable on a screen, and on paper without colour."""

from __future__ import annotations

STYLE = """
:root { --ink: #1a1d21; --soft: #5b636e; --line: #d5d9df; --wash: #f5f6f8; --good: #17663a; --bad: #a3161a; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: var(--ink); background: #fff;
  max-width: 62rem; margin: 0 auto; padding: 2.5rem 2rem 4rem; }
h1 { font-size: 2rem; line-height: 1.15; margin: 0; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.25rem 0 .4rem; }
p { margin: 0 0 .8rem; max-width: 46rem; }
small { display: block; font-size: .8rem; color: var(--soft); line-height: 1.35; }
.eyebrow { font-size: .8rem; letter-spacing: .08em; text-transform: uppercase; color: var(--soft);
  margin: 0 0 .2rem; }
.title { display: flex; align-items: center; justify-content: space-between; gap: 1.5rem; }
.about { color: var(--soft); margin-top: .4rem; }
.verdict { font-weight: 650; padding: .3rem .9rem; border: 2px solid; border-radius: .35rem;
  white-space: nowrap; }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 700; }
header { border-bottom: 3px solid var(--ink); padding-bottom: 1rem; }
.facts { display: grid; grid-template-columns: 9.5rem 1fr; gap: .3rem 1rem; margin: 1.2rem 0 0; }
.facts dt { color: var(--soft); } .facts dd { margin: 0; overflow-wrap: anywhere; }
.mono { font: .86rem/1.45 ui-monospace, "DejaVu Sans Mono", monospace; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th { text-align: left; font-weight: 600; vertical-align: bottom; border-bottom: 2px solid var(--ink);
  padding: .35rem .6rem .35rem 0; }
td { vertical-align: top; border-bottom: 1px solid var(--line); padding: .45rem .6rem .45rem 0; }
tbody { break-inside: avoid; }
.keys { table-layout: fixed; }
.keys th:nth-child(1) { width: 31%; } .keys th:nth-child(2) { width: 14%; } .keys th:nth-child(3) { width: 13%; }
.keys th:nth-child(4) { width: 13%; } .keys th:nth-child(6) { width: 7%; }
.keys .label { overflow-wrap: anywhere; }
.keys .words { color: var(--ink); }
.problems { border: 2px solid var(--bad); border-radius: .35rem; padding: 0 1.2rem .8rem;
  margin-top: 1.5rem; }
.problems h2 { margin-top: .9rem; color: var(--bad); } .problems ul { margin: 0; padding-left: 1.2rem; }
.matrix { margin: 1.2rem 0; font-size: .84rem; }
.matrix .first { border-left: 1px solid var(--line); }
.matrix th.group { text-align: center; font-weight: 500; color: var(--soft); padding: 0 0 .3rem; }
.matrix thead tr:first-child th { border: 0; }
.summary { font-size: 1.05rem; margin: 1.2rem 0 0; }
.matrix th.turned { height: auto; padding: 0 0 .35rem; width: 2rem; }
.matrix th.turned span { writing-mode: vertical-rl; transform: rotate(180deg); white-space: nowrap;
  font-weight: 500; }
.matrix td { padding-top: .25rem; padding-bottom: .25rem; overflow-wrap: anywhere; }
.matrix td:not(:first-child) { text-align: center; padding-right: 0; }
.matrix .yes { font-weight: 650; } .matrix .no, .matrix .none { color: var(--soft); }
.matrix .wrong { outline: 2px solid var(--bad); outline-offset: -3px; color: var(--bad); font-weight: 700; }
.matrix tbody { break-inside: auto; } .matrix tr, .timeline tr { break-inside: avoid; }
.timeline { font-size: .84rem; } .timeline tbody { break-inside: auto; }
.timeline td:nth-child(2), .timeline td:nth-child(3) { white-space: nowrap; }
.timeline td:last-child { overflow-wrap: anywhere; }
.signs { display: grid; grid-template-columns: 1fr 1fr; gap: 2.6rem 3rem; margin-top: 3rem; }
.sign { break-inside: avoid; }
.line { border-bottom: 1px solid var(--ink); height: 1.4rem; }
.sign p { margin: .3rem 0 0; }
.signatures { break-inside: avoid; }
@media (max-width: 46rem) {
  body { padding: 1.2rem 1rem; }
  .facts { grid-template-columns: 1fr; gap: 0; }
  .facts dd { margin-bottom: .5rem; }
  section { overflow-x: auto; } .signs { grid-template-columns: 1fr; } }
@page { size: A4; margin: 16mm 15mm 18mm; }
@media print {
  html { font-size: 11.5px; }
  body { max-width: none; padding: 0; font-size: 9.2pt; }
  h2, h2 + p { break-inside: avoid; break-after: avoid; }
  thead { display: table-header-group; }
  .mono { font-size: 8pt; }
  .matrix, .timeline { font-size: 8pt; }
}
"""

"""The page's style: one column that reads on paper, on a phone and in the dark."""

from lightning_unlearn.report._colours import DARK, LIGHT


def style() -> str:
    """The style sheet."""
    light = f":root{{color-scheme:light dark;{_variables(LIGHT)}}}"
    dark = f"@media screen and (prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}"
    return light + dark + RULES


def _variables(palette: dict[str, str]) -> str:
    return "".join(f"--{role}:{colour};" for role, colour in palette.items())


RULES = """
*{box-sizing:border-box}
body{
  margin:0; background:var(--paper); color:var(--ink);
  font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
  overflow-wrap:break-word;
}
main{max-width:66rem;margin:0 auto;padding:3rem 1.5rem 4rem}
h1,h2{
  font-family:"Iowan Old Style","Palatino Linotype",Palatino,"Book Antiqua",Georgia,"Liberation Serif",serif;
  font-weight:600; line-height:1.2; text-wrap:balance;
}
h1{font-size:2.2rem;margin:.2rem 0 .6rem}
h2{font-size:1.35rem;margin:3rem 0 .9rem}
p{margin:.4rem 0;max-width:46rem}
.kicker{color:var(--soft);font-size:.8rem;letter-spacing:.09em;text-transform:uppercase;margin:0}
.soft,.where,.unit{color:var(--soft)}
.verdict{
  font-size:1.2rem; line-height:1.5; margin:1.6rem 0 0; padding-left:1.1rem;
  border-left:3px solid var(--student); max-width:50rem;
}
.verdict.grey{border-color:var(--grey)}
.tiles{display:grid;grid-template-columns:repeat(3,1fr);gap:1rem;margin:1.8rem 0}
.tile{background:var(--card);border:1px solid var(--rule);border-radius:.6rem;padding:1rem 1.2rem}
.tile b{
  display:block; font-size:1.75rem; font-weight:600; line-height:1.25;
  font-variant-numeric:tabular-nums; margin:.2rem 0;
}
.tile .name{font-size:.9rem;font-weight:600}
.tile .unit{font-size:.85rem;display:block}
.limits{
  background:var(--caution-back); border:1px solid color-mix(in srgb,var(--caution) 35%,transparent);
  border-radius:.6rem; padding:.9rem 1.2rem;
}
.limits h2{
  margin:0 0 .3rem;  font-family:inherit; font-size:1rem;
  color:var(--caution);
}
ul{margin:.2rem 0;padding-left:1.2rem}
li{margin:.25rem 0;max-width:52rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.94rem}
th{
  font-weight:600; text-align:left; color:var(--soft); font-size:.82rem;
  border-bottom:1.5px solid var(--ink); padding:.45rem .8rem .45rem 0; vertical-align:bottom;
}
td{border-bottom:1px solid var(--rule);padding:.6rem .8rem .6rem 0;vertical-align:top}
td.who{font-weight:600;max-width:14rem;overflow-wrap:anywhere}
td .where{display:block;font-weight:400;font-size:.85rem}
td .between{color:var(--soft);white-space:nowrap;font-size:.88em}
tr.grey td,tr.grey td .between,.tile.grey b{color:var(--grey)}
.gate{white-space:nowrap}
.reason{display:block;font-size:.82rem;line-height:1.4;max-width:22rem}
.bar{
  position:relative; height:.45rem; width:9rem; max-width:100%; margin-top:.4rem;
  background:var(--rule); border-radius:.25rem; overflow:hidden;
}
.bar i{position:absolute;top:0;bottom:0;left:0;background:var(--attack-0)}
.bar i.spread{opacity:.35}
.bar i.dot{width:3px;margin-left:-1.5px}
details tr:last-child td{border-bottom:0}
td.fail,td.unknown{color:var(--caution)}
tr.grey .bar i{background:var(--grey)}
.figures{display:grid;grid-template-columns:repeat(2,1fr);gap:1.2rem}
figure{
  margin:0; background:var(--card); border:1px solid var(--rule); border-radius:.6rem;
  padding:.9rem .9rem .5rem; break-inside:avoid;
}
figcaption{font-weight:600;font-size:.95rem;margin-bottom:.3rem}
svg.plot{display:block;width:100%;height:auto}
details{border-top:1px solid var(--rule);padding:.7rem 0}
details:last-of-type{border-bottom:1px solid var(--rule)}
summary{cursor:pointer;font-weight:600}
pre{
  background:var(--card); border:1px solid var(--rule); border-radius:.5rem; padding:.9rem;
  overflow-x:auto;
  font:.85rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace;
  white-space:pre-wrap;
}
dl{display:grid;grid-template-columns:minmax(9rem,14rem) 1fr;gap:.35rem 1.4rem;margin:.6rem 0}
dt{font-weight:600}
dd,pre,.reason,li{overflow-wrap:anywhere}
dd{margin:0;max-width:44rem}
footer{margin-top:3rem;color:var(--soft);font-size:.85rem}
@media (max-width:720px){
main{padding:1.6rem 1rem 3rem}
h1{font-size:1.7rem}
.tiles,.figures{grid-template-columns:1fr}
table.cards thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
table.cards,table.cards tbody{display:block}
table.cards tr{
  display:block; border:1px solid var(--rule); background:var(--card); border-radius:.6rem;
  padding:.6rem .9rem; margin:0 0 .8rem;
}
table.cards td{display:grid;grid-template-columns:7.5rem 1fr;border:0;padding:.2rem 0}
table.cards td::before{content:attr(data-label);color:var(--soft);font-size:.85rem}
table.cards td.who{display:block;max-width:none;font-size:1.05rem}
table.cards td.who::before{content:none}
table.cards td:empty,table.cards td.none{display:none}
dl{grid-template-columns:1fr;gap:.1rem}
dd{margin-bottom:.6rem}
}
@media print{
body{font-size:10.5pt}
main{max-width:none;padding:0}
figure,.tile,tr,.limits{break-inside:avoid}
h2{break-after:avoid}
details::details-content{content-visibility:visible;height:auto}
}
"""

// SPDX-License-Identifier: MIT
/* The frame of report.html, and how it looks. */
#include "report/html.h"

/* Light, dark and on paper. --h0 to --h6 are loads, from none over the even share to four times
 * it and more, blue to orange, which every colour vision tells apart; --t0 to --t6 what is
 * written on them. --s0 to --s6 are stages and lines: Okabe and Ito's colours;
 * --s7 and on those of a block alone. */
static const char colours[] =
    ":root{color-scheme:light dark;--bg:#fff;--panel:#f5f7f9;--ink:#1b1f24;--muted:#57606a;"
    "--line:#d5dae0;--link:#0b62a8;--bad:#b42318;--badbg:#fdecea;"
    "--h0:#0b4f8a;--h1:#6aaed6;--h2:#c3ddef;--h3:#eeeee8;--h4:#f9d3a8;--h5:#e98b3a;--h6:#a84300;"
    "--t0:#fff;--t1:#10202e;--t2:#10202e;--t3:#1b1f24;--t4:#2b1a08;--t5:#1f1002;--t6:#fff;"
    "--s0:#0072b2;--s1:#d55e00;--s2:#009e73;--s3:#cc79a7;--s4:#e69f00;--s5:#56b4e9;--s6:#777;\n"
    "--s7:#b0b0b0;--s8:#7fb8d9;--s9:#d9c92e;--s10:#882255;--s11:#44aa99;--s12:#909090;"
    "--s13:#606060}\n"
    "@media screen and (prefers-color-scheme:dark){:root{--bg:#14171a;--panel:#1d2227;"
    "--ink:#e6e8ea;--muted:#9ba5ae;--line:#363d44;--link:#74b9ff;--bad:#ff9b8e;--badbg:#3a1d1b;"
    "--h0:#8fcbf5;--h1:#4b93c4;--h2:#2d5673;--h3:#2c3136;--h4:#714a20;--h5:#c9772f;--h6:#ffb877;"
    "--t0:#0b1a26;--t1:#071119;--t2:#e6e8ea;--t3:#e6e8ea;--t4:#fff2e2;--t5:#1a0d02;--t6:#2b1604;"
    "--s0:#3d9be0;--s1:#e8762d;--s2:#1fb88d;--s3:#d68fb8;--s4:#e6b13a;--s5:#7cc8f2;--s6:#9a9a9a}}"
    "\n";

static const char text[] =
    "*{box-sizing:border-box}\n"
    "body{margin:0;background:var(--bg);color:var(--ink);line-height:1.5;"
    "font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans','DejaVu Sans',sans-serif}\n"
    "header,main,footer{max-width:72rem;margin:0 auto;padding:0 1rem}\n"
    "h1{font-size:1.7rem;line-height:1.2;margin:1.6rem 0 .6rem;overflow-wrap:anywhere}\n"
    "h2{font-size:1.25rem;margin:0 0 .6rem;padding-top:1.4rem;border-top:1px solid var(--line)}\n"
    "h3{font-size:1rem;margin:1.4rem 0 .4rem}\n"
    "section{margin:1.6rem 0}\n"
    "p,ul{margin:.5rem 0;overflow-wrap:anywhere}ul{padding-left:1.2rem}li{margin:.25rem 0}\n"
    "p,li{max-width:46rem}.lead{font-size:1.1rem}\n"
    "a{color:var(--link)}code{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:.9em}\n"
    "nav{display:flex;flex-wrap:wrap;gap:.2rem 1rem;font-size:.9rem;margin:.8rem 0}\n"
    ".fail{background:var(--badbg);border-left:4px solid var(--bad);padding:.3rem "
    ".9rem;max-height:24rem;"
    "overflow-y:auto}\n"
    ".fail h2{border:0;padding:0;margin:.3rem 0;color:var(--bad)}.fail strong{color:var(--bad)}\n"
    "td strong,.lead strong{color:var(--bad)}\n"
    "pre{background:var(--panel);padding:.8rem;border-radius:6px;white-space:pre-wrap;"
    "overflow-wrap:anywhere}\n"
    "summary{cursor:pointer;color:var(--link)}details{margin:.6rem 0}\n"
    "footer{color:var(--muted);font-size:.85rem;padding-bottom:2rem}\n"
    "figcaption{color:var(--muted);font-size:.875rem}\n";

static const char tables[] =
    ".scroll{overflow-x:auto;margin:.6rem 0}\n"
    "table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}\n"
    "th,td{padding:.3rem .55rem;text-align:left;border-bottom:1px solid var(--line);"
    "vertical-align:top}\n"
    "thead th{color:var(--muted);font-weight:600;vertical-align:bottom}\n"
    "tbody th{font-weight:400}.n{text-align:right;white-space:nowrap}\n"
    "td{min-width:2rem}\n";

/* Loads, stages and charts. */
static const char drawings[] =
    ".heat{table-layout:fixed;width:100%}\n"
    ".heat th,.heat td{border:0;padding:0;min-width:0;vertical-align:middle}\n"
    ".heat tbody+tbody tr:first-child>*{border-top:4px solid var(--bg)}\n"
    ".heat thead th{font-size:.75rem;font-weight:400;text-align:left;overflow-wrap:anywhere}\n"
    ".heat .p{width:5.4rem;vertical-align:top;padding-right:.4rem;overflow-wrap:anywhere}\n"
    ".heat .w{width:6.4rem;color:var(--muted);font-size:.75rem}\n"
    ".heat td[class^=h]{height:1.2rem;font-size:0;text-align:center;overflow:hidden}\n"
    ".few td[class^=h]{font-size:.75rem;border-left:1px solid var(--bg)}\n"
    ".few thead th{text-align:center}.few thead .p,.few thead .w{text-align:left}\n"
    ".h0{background:var(--h0);color:var(--t0)}.h1{background:var(--h1);color:var(--t1)}\n"
    ".h2{background:var(--h2);color:var(--t2)}.h3{background:var(--h3);color:var(--t3)}\n"
    ".h4{background:var(--h4);color:var(--t4)}.h5{background:var(--h5);color:var(--t5)}\n"
    ".h6{background:var(--h6);color:var(--t6)}\n"
    ".s0{background:var(--s0)}.s1{background:var(--s1)}.s2{background:var(--s2)}\n"
    ".s3{background:var(--s3)}.s4{background:var(--s4)}.s5{background:var(--s5)}\n"
    ".s6{background:var(--s6)}.s7{background:var(--s7)}.s8{background:var(--s8)}\n"
    ".s9{background:var(--s9)}.s10{background:var(--s10)}.s11{background:var(--s11)}\n"
    ".s12{background:var(--s12)}.s13{background:var(--s13)}\n"
    ".key{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:.2rem .9rem;"
    "font-size:.8125rem}\n"
    ".key li{margin:0}.key i{display:inline-block;width:.9rem;height:.9rem;margin-right:.3rem;"
    "vertical-align:-.1rem;border:1px solid var(--line)}\n"
    ".key b{font-weight:400;margin-right:.3rem}\n"
    ".bars{width:100%;table-layout:fixed}.bars th,.bars td{border:0;"
    "padding:.15rem .6rem .15rem 0;vertical-align:middle}\n"
    ".bars th{line-height:1.25;overflow-wrap:anywhere}.bars .n{padding:0}\n"
    ".l{width:14rem}.v{width:6rem}.choices .l{width:7rem}.choices .v{width:14rem}\n"
    ".bar{display:flex;height:1.15rem}.bar span{display:block;min-width:1px}\n"
    ".r{white-space:nowrap}.range{position:relative}.range i{position:absolute;top:45%;height:3px;"
    "background:var(--ink)}\n"
    ".bars .g{max-width:none;padding-top:.5rem;color:var(--muted)}\n"
    ".figures,.charts{display:grid;gap:1rem 1.5rem;"
    "grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr))}\n"
    "figure{margin:.5rem 0;min-width:0;max-width:34rem}.wide{grid-column:1/-1;max-width:none}\n"
    ".charts{gap:.6rem 1.2rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,18rem),1fr))}\n"
    ".chart{min-width:0;max-width:34rem}.chart p{margin:0;font-size:.8125rem;text-align:center}\n"
    ".chart svg{display:block;width:100%;height:auto}.chart svg *{font-family:inherit}\n"
    ".chart text{fill:var(--muted)}.chart .gridline{stroke:var(--line)}\n"
    ".c0{color:var(--s0)}.c1{color:var(--s1)}.c2{color:var(--s2)}.c3{color:var(--s3)}\n"
    ".c4{color:var(--s4)}.c5{color:var(--s5)}.c6{color:var(--s6)}\n";

/* What a narrow screen has no room for; paper is wide, has no pointer, and shows all. */
static const char media[] =
    "@media (max-width:40rem){h1{font-size:1.4rem}.lead{font-size:1rem}"
    ".heat .p,.heat .w{font-size:.6875rem}.heat .p{width:2.4rem}.heat .w{width:4rem}"
    ".few td[class^=h]{font-size:0}.few thead th{font-size:.625rem}"
    ".bars th{font-size:.75rem}.l{width:7.8rem}.v{width:4.6rem}"
    ".bars .n{font-size:.75rem}"
    ".choices .l{width:4rem}.choices .v{width:8rem}.choices .n{white-space:normal}}\n"
    "@media print{body{font-size:10pt}nav{display:none}.fail{max-height:none}"
    "summary{color:inherit;list-style:none}"
    "*{print-color-adjust:exact;-webkit-print-color-adjust:exact}"
    "details::details-content{content-visibility:visible;display:block}"
    ".scroll{overflow:visible}table{font-size:8pt}th,td{padding:.15rem .35rem}"
    "h2{break-after:avoid}tr,.chart,figure{break-inside:avoid}}\n";

void html_begin(FILE *file, const char *title) {
  fputs("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
        "<meta http-equiv=\"Content-Security-Policy\" "
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>",
        file);
  html_text(file, title);
  fputs(" - moecl</title>\n<style>\n", file);
  fputs(colours, file);
  fputs(text, file);
  fputs(tables, file);
  fputs(drawings, file);
  fputs(media, file);
  fputs("</style>\n</head>\n<body>\n", file);
}

void html_end(FILE *file) { fputs("</body>\n</html>\n", file); }

"use strict";
(() => {
  const plots = JSON.parse(document.getElementById("plots").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)");
  const shown = new Map();

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();

  const alpha = (hex, a) => {
    const n = parseInt(hex.slice(1), 16);
    return `rgba(${n >> 16}, ${(n >> 8) & 255}, ${n & 255}, ${a})`;
  };

  // Opaque, since the colour of a word is picked by its ground: of black and white one has a contrast of 4.58 or more.
  const mixed = (hex, other, share) => {
    const parts = (h) => [1, 3, 5].map((i) => parseInt(h.slice(i, i + 2), 16));
    const [a, b] = [parts(hex), parts(other)];
    return "#" + a.map((v, i) => Math.round(v * share + b[i] * (1 - share)).toString(16).padStart(2, "0")).join("");
  };

  const luminance = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);

  const nested = (trace) => {
    const shade = (role, i) => mixed(colour(role), colour("card"), Math.max(0.4, 1.1 - 0.15 * trace.meta.depths[i]));
    const colors = trace.meta.roles.map(shade);
    const word = { size: 12, color: colors.map((hex) => (luminance(hex) > 0.179 ? "#000000" : "#ffffff")) };
    return {
      ...trace, marker: { ...trace.marker, colors, line: { width: 1.5, color: colour("card") } },
      textfont: word, insidetextfont: word, leaf: { opacity: 1 },
      maxdepth: innerWidth < 600 ? 4 : 7, pathbar: { thickness: 22, textfont: word },
    };
  };

  // The figures name roles; the style sheet, in light or in dark, says what colour a role has.
  const painted = (trace) => {
    if (trace.meta.roles) return nested(trace);
    const role = colour(trace.meta.role);
    const copy = { ...trace, line: { ...trace.line, color: role } };
    if (trace.marker) copy.marker = { ...trace.marker, color: role };
    if (trace.text) copy.textfont = { size: 12, color: colour("ink") };
    if (trace.meta.band) copy.line.color = "rgba(0, 0, 0, 0)";
    if (trace.stackgroup || trace.meta.band) copy.fillcolor = alpha(role, trace.meta.band ? 0.2 : 0.85);
    if (trace.fillpattern) {
      copy.fillpattern = { ...trace.fillpattern, bgcolor: alpha(role, trace.meta.band ? 0.12 : 0.5),
                           fgcolor: alpha(role, trace.meta.band ? 0.5 : 1), fillmode: "replace" };
    }
    return copy;
  };

  const axis = (own) => ({
    ...own, gridcolor: colour("line"), linecolor: colour("line"), tickcolor: colour("line"), zeroline: false,
    title: { ...own.title, standoff: 8, font: { size: 12, color: colour("soft") } }, automargin: true,
    tickfont: { size: 11.5, color: colour("soft") }, nticks: 6, fixedrange: touch.matches,
  });

  const layout = (own) => ({
    ...own,
    ...(own.xaxis && { xaxis: { ...axis(own.xaxis), showgrid: false, ticks: "outside", ticklen: 4, showline: true },
                       yaxis: axis(own.yaxis) }),
    showlegend: false,
    uniformtext: { minsize: 10, mode: "hide" },
    hovermode: own.hovermode || "x unified",
    hoverlabel: { bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("ink"), size: 12 } },
    paper_bgcolor: "rgba(0, 0, 0, 0)",
    plot_bgcolor: "rgba(0, 0, 0, 0)",
    font: { family: getComputedStyle(document.body).fontFamily, color: colour("ink") },
    margin: own.xaxis ? { t: 8, r: 10, b: 40, l: 48 } : { t: 4, r: 4, b: 4, l: 4 },
    dragmode: touch.matches ? false : "zoom",
  });

  const draw = (figure) => {
    const view = plots[figure.dataset.figure][shown.get(figure) || 0];
    Plotly.react(figure.querySelector(".plot"), view.data.map(painted), layout(view.layout),
                 { displayModeBar: false, responsive: true, doubleClick: "reset" });
  };

  const figures = [...document.querySelectorAll("figure[data-figure]")];
  for (const figure of figures) {
    for (const button of figure.querySelectorAll("button[data-view]")) {
      button.addEventListener("click", () => {
        shown.set(figure, Number(button.dataset.view));
        for (const other of figure.querySelectorAll("button[data-view]"))
          other.setAttribute("aria-pressed", String(other === button));
        for (const legend of figure.querySelectorAll("ul[data-view]"))
          legend.hidden = legend.dataset.view !== button.dataset.view;
        draw(figure);
      });
    }
    draw(figure);
  }

  const redraw = () => figures.forEach(draw);
  dark.addEventListener("change", redraw);
  touch.addEventListener("change", redraw);
  addEventListener("beforeprint", () => {
    for (const entry of document.querySelectorAll("details")) entry.open = true;
    redraw();
  });
  document.documentElement.dataset.drawn = String(figures.length);
})();

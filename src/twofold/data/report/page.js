// Draws what stands in the JSON block above, in the colours of the reader's light or dark mode.
"use strict";
(() => {
  const { drawings, positions, sizes, letters } = JSON.parse(document.getElementById("drawings").textContent);
  const cells = positions.length * positions.length;
  const places = positions.map((row) => row.map((index) => `${((100 * index) / cells).toFixed(1)}% of the way`));

  // "var(--name)" becomes the colour of that name; everything else stays.
  const painted = (value, style) => {
    if (Array.isArray(value)) return value.map((item) => painted(item, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, painted(item, style)]));
    }
    const name = typeof value === "string" && /^var\((--[a-z]+-?\d*)\)$/.exec(value);
    return name ? style.getPropertyValue(name[1]).trim() : value;
  };

  // A letter of a picture's row has three codes of two bits each; what the last letter has too many goes.
  const codes = (letter) => [4, 2, 0].map((bit) => (letters.indexOf(letter) >> bit) & 3);
  const unpacked = (trace) => {
    if (trace.type !== "heatmap") return trace;
    const z = trace.z.map((row) => Array.from(row, codes).flat().slice(0, positions.length));
    return { ...trace, z, text: z.map((row) => row.map((size) => sizes[size])), customdata: places };
  };

  // On paper the style sheet scales a figure to its place, for which its svg has to say how large it was drawn.
  const measure = (place) => {
    const { width, height } = place._fullLayout;
    place.style.setProperty("--shape", `${width} / ${height}`);
    for (const layer of place.querySelectorAll(".main-svg")) layer.setAttribute("viewBox", `0 0 ${width} ${height}`);
  };

  const draw = () => {
    const style = getComputedStyle(document.documentElement);
    for (const [id, { data, layout }] of Object.entries(drawings)) {
      const traces = data.map((trace) => painted(unpacked(trace), style));
      Plotly.react(id, traces, painted(layout, style), { displayModeBar: false, responsive: true });
    }
  };

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const onPaper = (isPaper) => () => {
    document.documentElement.classList.toggle("paper", isPaper);
    if (dark.matches) draw();
  };

  draw();
  for (const place of document.querySelectorAll(".drawing")) {
    measure(place);
    place.on("plotly_afterplot", () => measure(place));
  }
  dark.addEventListener("change", draw);
  addEventListener("beforeprint", onPaper(true));
  addEventListener("afterprint", onPaper(false));
})();

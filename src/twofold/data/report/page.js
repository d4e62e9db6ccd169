// Draws what stands in the JSON block above, in the colours of the reader's light or dark mode.
"use strict";
(() => {
  const { drawings, positions, sizes } = JSON.parse(document.getElementById("drawings").textContent);
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

  // The rows of a picture come as strings of digits.
  const unpacked = (trace) => {
    if (trace.type !== "heatmap") return trace;
    const z = trace.z.map((row) => Array.from(row, Number));
    return { ...trace, z, text: z.map((row) => row.map((size) => sizes[size])), customdata: places };
  };

  const draw = () => {
    const style = getComputedStyle(document.documentElement);
    for (const [id, { data, layout }] of Object.entries(drawings)) {
      const traces = data.map((trace) => painted(unpacked(trace), style));
      Plotly.react(id, traces, painted(layout, style), { displayModeBar: false, responsive: true });
    }
  };

  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();

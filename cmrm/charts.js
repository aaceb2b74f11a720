// Take a plot along: as a picture in the page's own colours, or as the numbers that it shows.
(() => {
  const save = (address, name) => Object.assign(document.createElement('a'), {href: address, download: name}).click();
  const quote = (cell) => /[",\n]/.test(cell) ? `"${String(cell).replaceAll('"', '""')}"` : String(cell ?? '');
  // A trace that the legend leaves out is a guide for the eye, and its points are those of others.
  const shown = ({visible, showlegend}) => visible !== false && showlegend !== false;
  const tabulate = (traces) => traces.filter(shown).flatMap(({name, x, y, error_y: error}) =>
    Array.from(x, (at, k) => [name, at, y[k], error?.array?.[k], error?.arrayminus?.[k]]));
  const draw = (plot, format) => {
    const {color, backgroundColor} = getComputedStyle(document.body);
    const layout = {...plot.layout, paper_bgcolor: backgroundColor, font: {...plot.layout.font, color}};
    return Plotly.toImage({data: plot.data, layout}, {format, width: plot.clientWidth, height: plot.clientHeight, scale: 2});
  };
  document.addEventListener('click', async ({target}) => {
    const kind = target.closest('[data-take]')?.dataset.take;
    if (!kind) return;
    const plot = target.closest('.column, figure').querySelector('.js-plotly-plot');
    const name = target.closest('[data-title]').dataset.title.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-');
    if (kind !== 'csv') return save(await draw(plot, kind), `${name}.${kind}`);
    const rows = [['trace', 'x', 'y', 'above', 'below'], ...tabulate(plot._fullData)];
    const text = rows.map((row) => row.map(quote).join(',') + '\n').join('');
    save(URL.createObjectURL(new Blob([text], {type: 'text/csv'})), `${name}.csv`);
  });
})();

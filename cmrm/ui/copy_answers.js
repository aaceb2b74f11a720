// What is hidden on the page is not in it.
async () => {
    const said = [...document.querySelectorAll('#panes .pane')].flatMap(pane => {
        const answer = pane.querySelector('.answer'), [title, subtitle] = pane.querySelector('header').children;
        if (!answer && !pane.matches('.veil-closed, .veil-click')) return [];
        return `${title.innerText} (${subtitle.innerText})\n${answer?.innerText ?? '(hidden)'}`;
    });
    if (!said.length) return 'There is no answer to copy yet.';
    try {
        await navigator.clipboard.writeText(said.join('\n\n'));
        return 'The answers are copied.';
    } catch {
        return 'The browser did not allow copying, which it does on pages of https and localhost only.';
    }
}

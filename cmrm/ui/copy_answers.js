// What is blurred on the page stays out of the clipboard.
async () => {
    const said = [...document.querySelectorAll('#panes .pane')].flatMap(pane => {
        const answer = pane.querySelector('.answer'), [title, subtitle] = pane.querySelector('header').children;
        if (!answer) return [];
        const hidden = getComputedStyle(answer).filter !== 'none';
        return `${title.innerText} (${subtitle.innerText})\n${hidden ? '(hidden)' : answer.innerText}`;
    });
    if (!said.length) return 'There is no answer to copy yet.';
    try {
        await navigator.clipboard.writeText(said.join('\n\n'));
        return 'The answers are copied.';
    } catch {
        return 'The browser did not allow copying, which it does on pages of https and localhost only.';
    }
}

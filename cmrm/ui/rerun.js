// Once there are answers, another strength is tried when the slider is let go.
() => {
    if (document.querySelector('#panes .pane:not(.running) footer .chip')) document.getElementById('run').click();
}

// The run as a file of the browser's own.
(text) => {
    if (text) {
        const link = document.createElement('a');
        link.href = URL.createObjectURL(new Blob([text], {type: 'application/json'}));
        link.download = 'cmrm-run.json';
        link.click();
        URL.revokeObjectURL(link.href);
    }
    return '';
}

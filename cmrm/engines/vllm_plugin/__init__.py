"""CMRM steering inside vLLM, by its own extension points; it runs in vLLM's environment, not in the project's.

Nothing here needs the project's requirements: torch, numpy and Pillow come with vLLM. One command starts a server:
`python -m cmrm.engines.vllm_plugin --model MODEL` (see `__main__.py`); `requirements-vllm.txt` says what it needs.

A request says what it asks for in `vllm_xargs={"cmrm": TEXT}`, a JSON text that `spec.py` reads:

    spec        what a request asks for, checked where vLLM admits requests (`admission`, `processor`)
    scheduler   keeps the keys of steered tokens out of what other requests read from the prefix cache
    worker      installs `steerer`, which says before each pass which tokens get what
    table       the buffers that say it, and keep states
    op, kernel  `cmrm::steer`, the last thing that each decoder layer does
    http        the routes `/v1/cmrm/...`, and what is refused before vLLM reads it
"""

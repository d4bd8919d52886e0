# %% [markdown]
# **Set-up.** On Colab the next cell fetches this repository and installs `segnb`, leaving Colab's
# torch, numpy and pandas as they are. In JupyterLab it does nothing.

# %% tags=["folded"]
# @title Set-up
REPO = ""  # owner/name on GitHub

import sys

if "google.colab" in sys.modules:
    import os
    import shutil
    import subprocess
    from pathlib import Path

    copy = Path("/content/segnb")
    uploaded = sorted(Path("/content").glob("*segnb*.zip"))
    if not copy.exists() and uploaded:
        shutil.unpack_archive(uploaded[-1], copy)
    elif not copy.exists() and REPO:
        url = f"https://github.com/{REPO}"
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", url, copy], check=True)
    elif not copy.exists():
        raise RuntimeError("Upload the repository as segnb.zip (folder icon, left); run again.")
    home = next(copy.rglob("pyproject.toml")).parent
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", home]
    subprocess.run(install, check=True)
    os.chdir(home / "notebooks")
    os.environ.setdefault("SEGNB_DATA", str(home / "data"))

    from segnb.notebook import install_missing

    install_missing()

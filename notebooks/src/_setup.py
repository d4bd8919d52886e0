# %% [markdown]
# **Set-up.** On Colab the next cell fetches this repository and installs `segnb`, leaving Colab's
# torch, numpy and pandas as they are. Run it again after a restart. With `DRIVE = True`, trained
# networks are kept on your Google Drive. In JupyterLab the cell does nothing.

# %% tags=["folded"]
# @title Set-up
REPO = ""  # owner/name on GitHub
DRIVE = False  # True: keep runs in MyDrive/segnb, and look there for segnb.zip first
UNUSED = ["/notebooks/*.ipynb", "/results/figures/", "/results/tuning/"]  # most of the bytes

import sys

if "google.colab" in sys.modules:
    import os
    import shutil
    import subprocess
    from pathlib import Path

    content, drive = Path("/content"), None
    copy = content / "segnb"

    def project() -> Path | None:
        """The project in the copy; None if there is none, or only a part of it."""
        found = [path.parents[1] for path in sorted(copy.rglob("segnb/recipe.py"))]
        return next((path for path in found if (path / "pyproject.toml").is_file()), None)

    if DRIVE:
        print("Google asks for access to your whole Drive; segnb uses MyDrive/segnb alone.")
        try:
            from google.colab import drive as google

            google.mount(str(content / "drive"))
            drive = content / "drive" / "MyDrive" / "segnb"
            drive.mkdir(parents=True, exist_ok=True)
        except Exception as error:  # declined, or not to be reached
            print(f"Drive is not used ({error}): what you train ends with the session.")
            drive = None
    if project() is None:
        uploaded = [*(sorted(drive.glob("*.zip")) if drive else []), *sorted(content.glob("*.zip"))]
        for path in uploaded:
            print(f"Unpacking {path}.")
            shutil.rmtree(copy, ignore_errors=True)
            try:
                shutil.unpack_archive(path, copy)
            except Exception as error:  # zipfile and zlib raise their own
                print(f"{path} is broken ({error}).")
            if project() is not None:
                break
            print(f"{path} does not hold the whole project; upload it again.")
    if project() is None and REPO:
        print(f"Fetching github.com/{REPO}.")
        shutil.rmtree(copy, ignore_errors=True)
        lean = ["--depth", "1", "--filter=blob:none", "--sparse", f"https://github.com/{REPO}"]
        chosen = ["git", "-C", copy, "sparse-checkout"]
        try:
            subprocess.run(["git", "clone", "--quiet", *lean, copy], check=True)
            subprocess.run([*chosen, "init", "--no-cone"], check=True)
            subprocess.run([*chosen, "set", "/*", *(f"!{one}" for one in UNUSED)], check=True)
        except (OSError, subprocess.CalledProcessError):
            print(f"github.com/{REPO} can't be reached, or has no such repository.")
    home = project()
    if home is None:
        shutil.rmtree(copy, ignore_errors=True)
        raise RuntimeError(
            "The project is not here yet. Download it as a zip file from where you got this "
            "notebook (on GitHub: Code, then Download ZIP; in a checkout, `make zip` writes a "
            "smaller one), upload it with the folder icon on the left, and run this cell again."
        )
    print("Installing segnb; torch, numpy and pandas stay as they are.")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", home]
    subprocess.run(install, check=True)
    (home / "notebooks").mkdir(exist_ok=True)
    os.chdir(home / "notebooks")
    os.environ.setdefault("SEGNB_DATA", str(home / "data"))
    if drive is not None and not (home / "runs").exists():
        (drive / "runs").mkdir(exist_ok=True)
        (home / "runs").symlink_to(drive / "runs")

    from segnb.notebook import install_missing

    install_missing()
    kept = f"; runs are kept in {drive / 'runs'}" if drive else ""
    print(f"Set-up is done: the project is in {home}{kept}.")

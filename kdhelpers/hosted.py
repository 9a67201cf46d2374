"""Setup on Colab and Kaggle: link mounted data sets into DATA_DIR and report a missing GPU."""

from pathlib import Path

from kdhelpers import paths

MOUNTED = {  # Kaggle's name of a data set: its folder under DATA_DIR, and the files and folders to link there
    "head-ct-hemorrhage": ("head_ct", "labels.csv", "head_ct"),
    "brain-mri-images-for-brain-tumor-detection": ("brain_mri", "no", "yes"),
}


def prepare(mounted: Path | str = "/kaggle/input", data_dir: Path = paths.DATA_DIR) -> None:
    """Link HeadCT and BrainMRI from Kaggle's `mounted` folder into `data_dir`; report a missing GPU."""
    import torch

    mounted = Path(mounted)
    for name, (folder, *parts) in MOUNTED.items():
        for root in [*mounted.glob(name), *mounted.glob(f"datasets/*/{name}")]:
            targets = [max(root.rglob(part), default=None) for part in parts]  # of head_ct/head_ct, the inner one
            if None not in targets:
                for target in targets:
                    path = data_dir / folder / target.name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    if path.is_symlink():  # from an earlier session; its target may be gone
                        path.unlink()
                    if not path.exists():
                        path.symlink_to(target)
                print(f"{folder}: from {root}")
    if not torch.cuda.is_available():
        place = "Settings, Accelerator" if mounted.is_dir() else "Runtime, Change runtime type"
        print(f"no GPU is attached: a full run takes hours to weeks on a CPU; attach one under {place}")

"""Packaging: everything is read from settings.ini, which the notebooks share."""
import shlex
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
settings = ConfigParser()
settings.read(here / "settings.ini", encoding="utf-8")
cfg = settings["DEFAULT"]

extras = {
    "dev": shlex.split(cfg["dev_requirements"]),
    "explore": ["jupyterlab>=4.2", "ipywidgets>=8.1", "umap-learn>=0.5.7",
                "jupyter-scatter>=1.0.1"],
    "accelerate": ["accelerate>=1.0"],
    "compare": ["pytorch-metric-learning>=2.6"],
    "study": ["imbalanced-learn>=0.13", "pytorch-metric-learning>=2.6", "scikit-posthocs>=0.17",
              "distributed>=2024.12", "optuna>=4.0"],
}

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=cfg["keywords"],
    packages=find_packages(include=["silk_nb", "silk_nb.*"]),
    # an editable install is then a path, which Python prefers to a folder silk_nb that it is
    # started beside, such as the clone itself
    package_dir={"": "."},
    package_data={"silk_nb": shlex.split(cfg["package_data"])},
    python_requires=f">={cfg['min_python']}",
    install_requires=shlex.split(cfg["requirements"]),
    extras_require=extras,
    entry_points={"console_scripts": shlex.split(cfg["console_scripts"])},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Natural Language :: English",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    zip_safe=False,
)

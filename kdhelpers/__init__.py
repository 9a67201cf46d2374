"""Multiresolution Knowledge Distillation for Anomaly Detection (Salehi et al., CVPR 2021): the notebooks' package."""

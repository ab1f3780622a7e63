"""DICOMweb and the app's own pages, over HTTP (PS3.18)."""

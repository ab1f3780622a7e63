"""DICOMweb, and a site of the app's own, over HTTP (PS3.18)."""

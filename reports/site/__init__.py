"""The site: prose, the matrix page, a page for each model and feature, badges and raw data."""

from reports.site.assembly import STATIC, build, files, write

__all__ = ["STATIC", "build", "files", "write"]

"""The forms in which labelled images lie on disk; one file each, beside the contract in ``format``."""

#: Ours, by the word that ``data.format`` names them with; in the order in which a path is tried.
BUILTIN = {
    "datasets": "sousvit.data.formats.datasets_folder:Datasets",
    "parquet": "sousvit.data.formats.parquet:Parquet",
    "csv": "sousvit.data.formats.csv_table:Csv",
    "webdataset": "sousvit.data.formats.webdataset:WebDataset",
    "idx": "sousvit.data.formats.idx:Idx",
    "folder": "sousvit.data.formats.folder:Folder",
    "torchvision": "sousvit.data.formats.torchvision_sets:Torchvision",
    "voc": "sousvit.data.formats.voc:Voc",
    "coco": "sousvit.data.formats.coco:Coco",
}
